-- The tables that the queries of yate/postgresql.conf, and Yate's own samples, are about.
-- bindery db init makes them; what is there already stays as it is.

CREATE TABLE IF NOT EXISTS users (
    username        text PRIMARY KEY,
    -- Either a password, or hashes of username:realm:password.
    password        text,
    ha1             text,
    ha1_sha256      text,
    ha1_sha512_256  text,
    -- Where the phone is: sip/ and a URI; NULL while it isn't registered.
    location        text,
    expires         timestamptz,
    -- How many calls the user is in.
    inuse           integer NOT NULL DEFAULT 0
);

-- For engine.timer, which looks for the few that have ended.
CREATE INDEX IF NOT EXISTS users_expires ON users (expires) WHERE expires IS NOT NULL;

CREATE TABLE IF NOT EXISTS cdr (
    time       timestamp NOT NULL,
    chan       text NOT NULL,
    address    text,
    direction  text,
    billid     text,
    caller     text,
    called     text,
    duration   interval,
    billtime   interval,
    ringtime   interval,
    status     text,
    reason     text,
    ended      boolean
);

CREATE INDEX IF NOT EXISTS cdr_chan ON cdr (chan, time);
CREATE INDEX IF NOT EXISTS cdr_time ON cdr (time);
CREATE INDEX IF NOT EXISTS cdr_open ON cdr (chan) WHERE ended IS NOT TRUE;

CREATE TABLE IF NOT EXISTS accounts (
    account   text PRIMARY KEY,
    protocol  text NOT NULL DEFAULT 'sip',
    username  text,
    password  text,
    server    text,
    enabled   boolean NOT NULL DEFAULT true,
    modified  boolean NOT NULL DEFAULT false,
    status    text
);
