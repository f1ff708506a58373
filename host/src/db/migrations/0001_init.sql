-- Names are checked before they come here. Times are integers: milliseconds or nanoseconds since 1970 (UTC).

CREATE TABLE tenants (
    name            TEXT PRIMARY KEY NOT NULL,
    created_unix_ms BIGINT NOT NULL
);

-- Only a key's public prefix and a keyed hash of its secret are kept.
CREATE TABLE api_keys (
    prefix          TEXT PRIMARY KEY NOT NULL,
    hash            BLOB NOT NULL,
    role            TEXT NOT NULL CHECK (role IN ('operator', 'tenant')),
    tenant          TEXT REFERENCES tenants (name),
    created_unix_ms BIGINT NOT NULL,
    expires_unix_ms BIGINT,
    revoked_unix_ms BIGINT,
    CHECK ((role = 'tenant') = (tenant IS NOT NULL))
);

-- The highest version number ever given: outlives the function, so that no number comes twice.
CREATE TABLE function_numbers (
    tenant   TEXT NOT NULL REFERENCES tenants (name),
    function TEXT NOT NULL,
    last     BIGINT NOT NULL,
    PRIMARY KEY (tenant, function)
);

CREATE TABLE functions (
    tenant          TEXT NOT NULL REFERENCES tenants (name),
    name            TEXT NOT NULL,
    created_unix_ms BIGINT NOT NULL,
    updated_unix_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE versions (
    tenant          TEXT NOT NULL,
    function        TEXT NOT NULL,
    number          BIGINT NOT NULL,
    manifest        TEXT NOT NULL, -- JSON, vesta-package/1
    models          TEXT NOT NULL, -- JSON, a list of what the check of each model found
    created_unix_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, function, number),
    FOREIGN KEY (tenant, function) REFERENCES functions (tenant, name) ON DELETE CASCADE
);

CREATE TABLE aliases (
    tenant   TEXT NOT NULL,
    function TEXT NOT NULL,
    alias    TEXT NOT NULL,
    version  BIGINT NOT NULL,
    PRIMARY KEY (tenant, function, alias),
    FOREIGN KEY (tenant, function) REFERENCES functions (tenant, name) ON DELETE CASCADE,
    FOREIGN KEY (tenant, function, version) REFERENCES versions (tenant, function, number)
);

-- What each tenant has uploaded itself: only this lets it skip an upload.
CREATE TABLE tenant_blobs (
    tenant           TEXT NOT NULL REFERENCES tenants (name),
    digest           TEXT NOT NULL,
    size             BIGINT NOT NULL,
    uploaded_unix_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, digest)
);

-- Deployments under way, so that a restart can tell their owners that they failed.
CREATE TABLE open_deployments (
    id              TEXT PRIMARY KEY NOT NULL,
    tenant          TEXT NOT NULL,
    function        TEXT NOT NULL,
    created_unix_ms BIGINT NOT NULL
);

-- One row an invocation; ids are ULIDs, so that new rows go to the end.
CREATE TABLE usage_records (
    id                TEXT PRIMARY KEY NOT NULL,
    tenant            TEXT NOT NULL,
    function          TEXT NOT NULL,
    version           BIGINT NOT NULL,
    started_unix_ns   BIGINT NOT NULL,
    outcome           TEXT NOT NULL,
    status            BIGINT NOT NULL,
    cold              BIGINT NOT NULL,
    inferences        BIGINT NOT NULL,
    guest_cpu_ns      BIGINT NOT NULL,
    inference_cpu_ns  BIGINT NOT NULL,
    cold_start_cpu_ns BIGINT NOT NULL,
    peak_memory_bytes BIGINT NOT NULL,
    memory_ns         BIGINT NOT NULL,
    bytes_in          BIGINT NOT NULL,
    bytes_out         BIGINT NOT NULL,
    queue_ns          BIGINT NOT NULL,
    cold_ns           BIGINT NOT NULL,
    cold_code_ns      BIGINT NOT NULL,
    cold_model_ns     BIGINT NOT NULL,
    guest_ns          BIGINT NOT NULL,
    infer_ns          BIGINT NOT NULL,
    total_ns          BIGINT NOT NULL,
    charge_units      BIGINT NOT NULL, -- whole units of currency
    charge_attos      BIGINT NOT NULL  -- 10^-18 units, 0 to 10^18 - 1
) WITHOUT ROWID;

CREATE INDEX usage_records_by_tenant ON usage_records (tenant, id);

-- The sums of the records of a function and day (UTC), kept up in the transaction that posts them: what bills are made
-- from, also after the records themselves are gone. Sums past 2^63 have a whole part and one of 10^-18.
CREATE TABLE usage_days (
    tenant            TEXT NOT NULL,
    day               BIGINT NOT NULL, -- days since 1970
    function          TEXT NOT NULL,
    invocations       BIGINT NOT NULL,
    guest_cpu_ns      BIGINT NOT NULL,
    inference_cpu_ns  BIGINT NOT NULL,
    cold_start_cpu_ns BIGINT NOT NULL,
    memory_gb_s       BIGINT NOT NULL, -- whole gigabyte-seconds (10^9 bytes for 10^9 ns)
    memory_byte_ns    BIGINT NOT NULL, -- byte-nanoseconds, 0 to 10^18 - 1
    bytes_in          BIGINT NOT NULL,
    bytes_out         BIGINT NOT NULL,
    charge_units      BIGINT NOT NULL,
    charge_attos      BIGINT NOT NULL,
    PRIMARY KEY (tenant, day, function)
) WITHOUT ROWID;

-- Records that started before this have been pruned: a second posting of one of them is known by its age.
CREATE TABLE ledger_horizon (
    only                 BIGINT PRIMARY KEY CHECK (only = 1),
    pruned_before_unix_ns BIGINT NOT NULL
);
INSERT INTO ledger_horizon (only, pruned_before_unix_ns) VALUES (1, 0);

CREATE TABLE guest_logs (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    unix_ns    BIGINT NOT NULL,
    tenant     TEXT NOT NULL,
    function   TEXT NOT NULL,
    version    BIGINT NOT NULL,
    invocation TEXT NOT NULL,
    level      TEXT NOT NULL,
    message    TEXT NOT NULL,
    fields     TEXT
);
CREATE INDEX guest_logs_by_function ON guest_logs (tenant, function, seq);
CREATE INDEX guest_logs_by_time ON guest_logs (unix_ns);
