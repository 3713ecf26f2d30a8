-- The tables that the queries of yate/sqlite.conf are about.
-- bindery db init makes them; what is there already stays as it is.

CREATE TABLE IF NOT EXISTS users (
    username        TEXT PRIMARY KEY,
    -- Either a password, or hashes of username:realm:password.
    password        TEXT,
    ha1             TEXT,
    ha1_sha256      TEXT,
    ha1_sha512_256  TEXT,
    -- Where the phone is: sip/ and a URI; NULL while it isn't registered.
    location        TEXT,
    -- Seconds since 1970.
    expires         INTEGER,
    -- How many calls the user is in.
    inuse           INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- For engine.timer, which looks for the few that have ended.
CREATE INDEX IF NOT EXISTS users_expires ON users (expires) WHERE expires IS NOT NULL;

CREATE TABLE IF NOT EXISTS cdr (
    -- Seconds since 1970, with a fraction.
    time       REAL NOT NULL,
    chan       TEXT NOT NULL,
    address    TEXT,
    direction  TEXT,
    billid     TEXT,
    caller     TEXT,
    called     TEXT,
    -- Seconds.
    duration   REAL,
    billtime   REAL,
    ringtime   REAL,
    status     TEXT,
    reason     TEXT,
    ended      INTEGER
);

CREATE INDEX IF NOT EXISTS cdr_chan ON cdr (chan, time);
CREATE INDEX IF NOT EXISTS cdr_time ON cdr (time);
CREATE INDEX IF NOT EXISTS cdr_open ON cdr (chan) WHERE ended IS NOT 1;

CREATE TABLE IF NOT EXISTS accounts (
    account   TEXT PRIMARY KEY,
    protocol  TEXT NOT NULL DEFAULT 'sip',
    username  TEXT,
    password  TEXT,
    server    TEXT,
    enabled   INTEGER NOT NULL DEFAULT 1,
    modified  INTEGER NOT NULL DEFAULT 0,
    status    TEXT
);
