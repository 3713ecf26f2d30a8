-- The tables that the queries of yate/mysql.conf are about, for MySQL and MariaDB.
-- bindery db init makes them; what is there already stays as it is.

CREATE TABLE IF NOT EXISTS users (
    -- Names are told apart by every octet: bob is not BOB.
    username        VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY,
    -- Either a password, or hashes of username:realm:password.
    password        VARCHAR(255),
    ha1             VARCHAR(32),
    ha1_sha256      VARCHAR(64),
    ha1_sha512_256  VARCHAR(64),
    -- Where the phone is: sip/ and a URI; NULL while it isn't registered.
    location        VARCHAR(2048),
    expires         DATETIME,
    -- How many calls the user is in.
    inuse           INTEGER NOT NULL DEFAULT 0,
    -- For engine.timer, which looks for the few that have ended.
    INDEX users_expires (expires)
) DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS cdr (
    time       DATETIME(3) NOT NULL,
    chan       VARCHAR(64) NOT NULL,
    address    VARCHAR(64),
    direction  VARCHAR(16),
    billid     VARCHAR(64),
    caller     VARCHAR(255),
    called     VARCHAR(255),
    -- Seconds.
    duration   DECIMAL(12, 3),
    billtime   DECIMAL(12, 3),
    ringtime   DECIMAL(12, 3),
    status     VARCHAR(32),
    reason     VARCHAR(255),
    ended      BOOLEAN,
    INDEX cdr_chan (chan, time),
    INDEX cdr_time (time),
    INDEX cdr_open (ended)
) DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS accounts (
    account   VARCHAR(64) PRIMARY KEY,
    protocol  VARCHAR(16) NOT NULL DEFAULT 'sip',
    username  VARCHAR(255),
    password  VARCHAR(255),
    server    VARCHAR(255),
    enabled   BOOLEAN NOT NULL DEFAULT true,
    modified  BOOLEAN NOT NULL DEFAULT false,
    status    VARCHAR(64)
) DEFAULT CHARACTER SET utf8mb4;
