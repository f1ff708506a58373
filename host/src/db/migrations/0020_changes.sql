-- What changed of tenants, keys and functions, in order: written in the transaction that makes the change. Hosts bring their memory up by
-- it: they read the rows of what changed. Only the newest are kept; a host that is behind them reads everything again.
CREATE TABLE changes (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL, -- tenant, key or function
    tenant  TEXT NOT NULL, -- of the function; else empty
    name    TEXT NOT NULL, -- the tenant's or function's name, or the key's prefix
    unix_ms BIGINT NOT NULL
);

-- The deployment that published a version: known to have succeeded, whatever became of the host before it could say so.
ALTER TABLE versions ADD COLUMN deployment TEXT;

-- Deployments that have ended, so that their owners are told how, also after a restart.
CREATE TABLE ended_deployments (
    id              TEXT PRIMARY KEY NOT NULL,
    tenant          TEXT NOT NULL,
    function        TEXT NOT NULL,
    created_unix_ms BIGINT NOT NULL,
    version         BIGINT,           -- null where it failed
    error_code      TEXT,             -- null where it succeeded
    error_detail    TEXT,
    error_platform  BIGINT
);
CREATE INDEX ended_deployments_by_tenant ON ended_deployments (tenant, id);

-- Written to see whether the database can be written, after a failure.
CREATE TABLE probe (only BIGINT PRIMARY KEY CHECK (only = 1), filler BLOB);
