//! The real binary on disks that go bad: a file system that dies, a folder that takes no more
//! files, one that is read-only, one of somebody else.
//!
//! They mount file systems and change attributes, so they need root and are not run by themselves:
//! `tests/run` runs them where it can, and names them where it can't.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    admin::{ask, bearer, call},
    durability::{ARGS, contacts, folder},
    support::{Phone, Server, wait_until},
};

/// Somebody who is not root.
const NOBODY: u32 = 65534;

/// Starts in `folder`, and registers alice.
fn with_alice(folder: tempfile::TempDir) -> (Server, Phone) {
    let server = Server::launch(folder, &ARGS, true);
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(alice.register(3600).code, 200);
    (server, alice)
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// A file system of its own at a path, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mounted_at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let image = path.with_extension("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        let options = "loop,errors=remount-ro";
        run("mount", &["-o", options, image.to_str().unwrap(), path.to_str().unwrap()]);
        Self(path)
    }

    /// Has every write and sync fail from now on, as on a disk that was pulled out.
    fn dies(&self) {
        const EXT4_IOC_SHUTDOWN: &str = "\
            import fcntl, os, struct, sys\n\
            folder = os.open(sys.argv[1], os.O_RDONLY)\n\
            fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))\n";
        run("python3", &["-c", EXT4_IOC_SHUTDOWN, self.0.to_str().unwrap()]);
    }

    /// Has the kernel find an error and go on read-only, under whoever has files open: to ask for
    /// that with mount is refused as long as there are any.
    fn turns_read_only(&self) {
        let output = Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.0).output().unwrap();
        let device = String::from_utf8(output.stdout).unwrap();
        let name = Path::new(device.trim()).file_name().unwrap().to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        fs::write(trigger, "for a test").unwrap();
        wait_until("a read-only file system", || {
            fs::File::create(self.0.join("probe"))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
        });
    }

    fn is_read_only(&self) {
        run("mount", &["-o", "remount,ro", self.0.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left behind may have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A folder in which nothing can be made, renamed or removed, for as long as this lives.
struct Immutable<'p>(&'p Path);

impl<'p> Immutable<'p> {
    fn new(path: &'p Path) -> Self {
        run("chattr", &["+i", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        run("chattr", &["-i", self.0.to_str().unwrap()]);
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_disk_that_dies_does_not_stop_service() {
    for durability in ["journal", "sync"] {
        let folder = folder(&format!("durability={durability}"));
        let disk = Disk::mounted_at(folder.path().join("state"));
        let (server, mut alice) = with_alice(folder);
        disk.dies();
        assert_eq!(alice.register(1800).code, 200);
        server.await_log("the journal can't be written; a snapshot will be tried");
        server.await_log("can't write a snapshot");
        wait_until("/readyz to name both", || {
            let ready = ask(&server, "GET", "/readyz", "", "");
            let checks = &ready.json()["checks"];
            ready.status == 503 && checks["journal"] != "ok" && checks["snapshot"] != "ok"
        });
        assert_eq!(contacts(&server, &mut alice), 1);
        // There is no promise that it could keep.
        server.signal("TERM");
        server.await_log("the registrations were not saved");
        let (status, _folder) = server.stop();
        assert_eq!(status.code(), Some(1));
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_disk_that_turns_read_only_does_not_stop_service() {
    for durability in ["journal", "sync"] {
        let folder = folder(&format!("durability={durability}"));
        let disk = Disk::mounted_at(folder.path().join("state"));
        let (server, mut alice) = with_alice(folder);
        disk.turns_read_only();
        assert_eq!(alice.register(1800).code, 200);
        let said = server.await_log("the journal can't be written; a snapshot will be tried");
        assert!(said.contains("Read-only file system"), "{said}");
        server.await_log("can't write a snapshot");
        wait_until("/readyz to name both", || {
            let ready = ask(&server, "GET", "/readyz", "", "");
            let checks = &ready.json()["checks"];
            ready.status == 503 && checks["journal"] != "ok" && checks["snapshot"] != "ok"
        });
        assert_eq!(contacts(&server, &mut alice), 1);
        server.signal("TERM");
        server.await_log("the registrations were not saved");
        let (status, _folder) = server.stop();
        assert_eq!(status.code(), Some(1));
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_disk_that_dies_refuses_changes_where_it_is_to() {
    let folder = folder("on_disk_error=refuse");
    let disk = Disk::mounted_at(folder.path().join("state"));
    let (server, mut alice) = with_alice(folder);
    // The token's file goes with the disk.
    let bearer = bearer(&server);
    disk.dies();
    alice.accept_silence(std::time::Duration::from_millis(200));
    wait_until("a refusal", || alice.register(1800).code == 503);
    let said = ask(&server, "DELETE", "/api/v1/bindings/alice", &bearer, "").problem(503);
    assert!(said.starts_with("the change can't be saved: "), "{said}");
    assert_eq!(ask(&server, "GET", "/api/v1/bindings/alice", &bearer, "").status, 200);
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_read_only_disk_refuses_the_start_or_serves_from_memory_and_keeps_what_it_has() {
    let folder = folder("on_disk_error=refuse");
    let disk = Disk::mounted_at(folder.path().join("state"));
    let (server, mut alice) = with_alice(folder);
    let folder = server.killed();
    disk.is_read_only();
    let mut server = Server::launch(folder, &ARGS, false);
    assert_eq!(server.wait().code(), Some(1));
    server.await_log("Read-only file system");
    let (_, folder) = server.stop();

    let conf = folder.path().join("conf/bindery.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text.replace("on_disk_error=refuse", "on_disk_error=serve")).unwrap();
    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
    let ready = ask(&server, "GET", "/readyz", "", "");
    assert_eq!(ready.status, 503);
    assert_ne!(ready.json()["checks"]["journal"], "ok");
    let folder = server.killed();

    run("mount", &["-o", "remount,rw", disk.0.to_str().unwrap()]);
    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
    drop(server);
}

#[test]
#[ignore = "needs root and chattr"]
fn a_folder_that_takes_no_more_files_costs_snapshots_only() {
    let (server, mut alice) = with_alice(folder(""));
    let state = server.path("state");
    let fixed = Immutable::new(&state);
    let said = call(&server, "POST", "/api/v1/snapshot").problem(500);
    assert!(said.contains("Operation not permitted"), "{said}");
    assert_eq!(alice.register(1800).code, 200);
    let ready = call(&server, "GET", "/readyz").json();
    assert_eq!(ready["checks"]["journal"], "ok", "{ready}");
    // It can't write its last snapshot either, but the journal has all of it.
    let (status, folder) = server.stop();
    assert_eq!(status.code(), Some(0));
    drop(fixed);

    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
    assert_eq!(call(&server, "POST", "/api/v1/snapshot").status, 200);
    assert_eq!(call(&server, "GET", "/readyz").status, 200);
}

#[test]
#[ignore = "needs root, to become somebody else"]
fn what_is_somebody_elses_is_not_taken_for_nothing() {
    let folder = folder("");
    let bin = folder.path().join("bindery");
    fs::copy(env!("CARGO_BIN_EXE_bindery"), &bin).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (server, mut alice) = with_alice(folder);
    let (status, folder) = server.stop();
    assert!(status.success());

    let nobody = |folder: &Path| {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.current_dir(folder).env_remove("RUST_LOG");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "./bindery"]);
        command
    };
    // The folder, which is root's; then the files in it.
    let mut folder = folder;
    for what in ["state", "state/regfile.snapshot"] {
        let mut server = Server::run(folder, nobody, &ARGS, false);
        assert_eq!(server.wait().code(), Some(1), "{}", server.log());
        let said = server.await_log("bindery: ");
        assert!(said.contains("Permission denied"), "{what}: {said}");
        folder = server.stop().1;
        chown(folder.path().join("state"), Some(NOBODY), Some(NOBODY)).unwrap();
        for name in ["nonce.key", "admin.token"] {
            let _ = chown(folder.path().join("state").join(name), Some(NOBODY), Some(NOBODY));
        }
    }
    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
}
