//! `bindery users --db`.

use bindery::cli::users::database::Table;

use super::Battery;

fn secret(key: &'static str, value: &str) -> Vec<(&'static str, String)> {
    vec![(key, value.to_owned())]
}

async fn list(table: &Table, user: Option<&str>) -> Result<String, String> {
    let mut out = Vec::new();
    table.list(user, &mut out).await.map_err(|error| error.to_string())?;
    let lines = String::from_utf8(out).unwrap();
    Ok(lines.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What the ready-made query of `[user.auth]` looks at.
async fn columns(battery: &Battery, user: &str) -> Vec<Option<Box<str>>> {
    let query = "SELECT password, ha1, ha1_sha256, ha1_sha512_256 FROM users \
                 WHERE username='${username}'";
    let rows = battery.run(query, &[("username", user)]).await;
    rows.rows.first().map(|row| row.to_vec()).unwrap_or_default()
}

pub(crate) async fn users_come_change_and_go(battery: &mut Battery) {
    let table = Table::open(battery.account.clone(), "here".to_owned()).unwrap();
    let told = |result: anyhow::Result<()>| result.unwrap_err().to_string();
    // A quote in a name or a password is a quote.
    let (name, password) = ("o'neil", "p'w\\ ");

    table.add(name, &secret("password", password)).await.unwrap();
    assert_eq!(columns(battery, name).await, [Some(password.into()), None, None, None]);
    let again = table.add(name, &secret("password", "x")).await;
    assert_eq!(told(again), "there is a user o'neil in here");
    assert_eq!(told(table.check_presence(name, false).await), "there is a user o'neil in here");

    table.passwd(name, &secret("ha1", "5a2a1586d5189f527d03bc41fbde1937")).await.unwrap();
    let hash = Some("5a2a1586d5189f527d03bc41fbde1937".into());
    assert_eq!(columns(battery, name).await, [None, hash, None, None]);
    // The same once more changes nothing, and is no error.
    table.passwd(name, &secret("ha1", "5a2a1586d5189f527d03bc41fbde1937")).await.unwrap();

    assert_eq!(list(&table, Some(name)).await, Ok("o'neil MD5".to_owned()));
    assert_eq!(
        list(&table, None).await,
        Ok("100 a password 200 an empty password: nobody, without allow_empty_password=yes \
            o'neil MD5"
            .to_owned())
    );

    table.remove(name).await.unwrap();
    let absent = "there is no user o'neil in here";
    assert_eq!(told(table.remove(name).await), absent);
    assert_eq!(told(table.passwd(name, &secret("password", "x")).await), absent);
    assert_eq!(told(table.check_presence(name, true).await), absent);
    assert_eq!(list(&table, Some(name)).await, Err(absent.to_owned()));
}
