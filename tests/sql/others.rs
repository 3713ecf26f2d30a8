//! The tables of Kamailio and OpenSIPS, as far as the ready-made queries come near them.

use bindery::backend::sql::Dialect;
use bindery::config::register::Message;

use super::Battery;

/// `subscriber` and `location`, with what is NOT NULL there and has no default.
const KAMAILIO: &str = "
CREATE TABLE subscriber (id INTEGER, username VARCHAR(64) NOT NULL DEFAULT '',
    domain VARCHAR(64) NOT NULL DEFAULT '', password VARCHAR(64) NOT NULL DEFAULT '',
    ha1 VARCHAR(128) NOT NULL DEFAULT '', ha1b VARCHAR(128) NOT NULL DEFAULT '');
CREATE TABLE location (id INTEGER, ruid VARCHAR(64) NOT NULL DEFAULT '' UNIQUE,
    username VARCHAR(64) NOT NULL DEFAULT '', domain VARCHAR(64) DEFAULT NULL,
    contact VARCHAR(512) NOT NULL DEFAULT '', received VARCHAR(128) DEFAULT NULL,
    path VARCHAR(512) DEFAULT NULL, expires TIMESTAMP NOT NULL DEFAULT '2030-05-28 21:32:15',
    q REAL NOT NULL DEFAULT 1.0, callid VARCHAR(255) NOT NULL DEFAULT 'Default-Call-ID',
    cseq INTEGER NOT NULL DEFAULT 1, last_modified TIMESTAMP NOT NULL DEFAULT '2000-01-02 00:00:01',
    flags INTEGER NOT NULL DEFAULT 0, cflags INTEGER NOT NULL DEFAULT 0,
    user_agent VARCHAR(255) NOT NULL DEFAULT '', socket VARCHAR(64) DEFAULT NULL,
    methods INTEGER DEFAULT NULL, instance VARCHAR(255) DEFAULT NULL,
    reg_id INTEGER NOT NULL DEFAULT 0)";

const OPENSIPS: &str = "
CREATE TABLE subscriber (id INTEGER, username VARCHAR(64) NOT NULL DEFAULT '',
    domain VARCHAR(64) NOT NULL DEFAULT '', password VARCHAR(25) NOT NULL DEFAULT '',
    ha1 VARCHAR(64) NOT NULL DEFAULT '', ha1_sha256 VARCHAR(64) NOT NULL DEFAULT '',
    ha1_sha512t256 VARCHAR(64) NOT NULL DEFAULT '');
CREATE TABLE location (contact_id BIGINT PRIMARY KEY NOT NULL,
    username VARCHAR(64) NOT NULL DEFAULT '', domain VARCHAR(64) DEFAULT NULL,
    contact TEXT NOT NULL, received VARCHAR(255) DEFAULT NULL, path VARCHAR(255) DEFAULT NULL,
    expires INTEGER NOT NULL, q REAL NOT NULL DEFAULT 1.0,
    callid VARCHAR(255) NOT NULL DEFAULT 'Default-Call-ID', cseq INTEGER NOT NULL DEFAULT 13,
    last_modified TIMESTAMP NOT NULL DEFAULT '2000-01-02 00:00:01',
    flags INTEGER NOT NULL DEFAULT 0, cflags VARCHAR(255) DEFAULT NULL,
    user_agent VARCHAR(255) NOT NULL DEFAULT '', socket VARCHAR(64) DEFAULT NULL,
    methods INTEGER DEFAULT NULL, sip_instance VARCHAR(255) DEFAULT NULL,
    kv_store TEXT DEFAULT NULL, attr VARCHAR(255) DEFAULT NULL)";

const HA1: &str = "0123456789abcdef0123456789abcdef";

pub(crate) async fn tables_of_other_registrars_will_do(battery: &mut Battery) {
    if battery.account.dialect() == Dialect::Sqlite {
        return;
    }
    for (name, tables) in [("kamailio", KAMAILIO), ("opensips", OPENSIPS)] {
        battery.database.script("DROP TABLE IF EXISTS subscriber, location").await.unwrap();
        battery.database.script(tables).await.unwrap();
        let user = format!("INSERT INTO subscriber (username, ha1) VALUES ('100', '{HA1}')");
        battery.database.script(&user).await.unwrap();
        let register = battery.register(name);
        let query = |message| register.handler(message).unwrap().query.as_ref();
        let mut user = [
            ("username", "100"),
            ("called", "100"),
            ("data", "sip/sip:100@192.0.2.1"),
            ("expires", "600"),
            ("sip_callid", "x"),
            ("device", "phone"),
        ];
        let rows = battery.handle(query(Message::UserAuth), &user).await;
        assert_eq!((rows.value(0, "ha1"), rows.value(0, "password")), (Some(HA1), None), "{name}");
        assert_eq!(rows.value(0, "ha1_sha256"), None, "{name}");
        let route = battery.handle(query(Message::CallRoute), &user).await;
        assert_eq!((route.rows.len(), route.value(0, "location")), (1, None), "{name}");
        for contact in ["sip/sip:100@192.0.2.1", "sip/sip:100@192.0.2.2"] {
            user[2].1 = contact;
            let registered = battery.handle(query(Message::UserRegister), &user).await;
            assert!(registered.affected >= 1, "{name}");
            let route = battery.handle(query(Message::CallRoute), &user).await;
            assert_eq!(route.value(0, "location"), Some(contact), "{name}");
        }
        assert_eq!(battery.handle(query(Message::EngineTimer), &[]).await.affected, 0, "{name}");
        let gone = battery.handle(query(Message::UserUnregister), &user).await;
        assert_eq!(gone.affected, 1, "{name}");
        user[3].1 = "-5";
        battery.handle(query(Message::UserRegister), &user).await;
        assert_eq!(battery.handle(query(Message::EngineTimer), &[]).await.affected, 1, "{name}");
    }
    battery.database.script("DROP TABLE subscriber, location").await.unwrap();
}
