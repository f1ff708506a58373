-- The currency of a record's charge, and the price plan that it was computed by. Rows from before have neither; their currency is that of
-- `ledger_before`, which the first start after this migration takes from its price plan, once.
ALTER TABLE usage_records ADD COLUMN currency TEXT;
ALTER TABLE usage_records ADD COLUMN price_plan TEXT;

CREATE TABLE ledger_before (
    only     BIGINT PRIMARY KEY CHECK (only = 1),
    currency TEXT
);
INSERT INTO ledger_before (only, currency) VALUES (1, NULL);

-- Every price plan that the host has started with, so that an old record can be recomputed.
CREATE TABLE price_plans (
    id                 TEXT PRIMARY KEY NOT NULL, -- the first 12 hexadecimal digits of the SHA-256 of the text
    text               TEXT NOT NULL,             -- canonical, TOML
    first_used_unix_ms BIGINT NOT NULL
);

-- Sums are told apart by currency. Days that are old become months (`period`), whose `day` is the first of the month.
-- A sum that passes 2^63 would become a float in SQLite; the check refuses it.
CREATE TABLE usage_days_new (
    tenant            TEXT NOT NULL,
    day               BIGINT NOT NULL, -- days since 1970
    period            TEXT NOT NULL DEFAULT 'day' CHECK (period IN ('day', 'month')),
    function          TEXT NOT NULL,
    currency          TEXT NOT NULL,   -- XXX until the first start after the migration
    invocations       BIGINT NOT NULL CHECK (typeof(invocations) = 'integer'),
    guest_cpu_ns      BIGINT NOT NULL CHECK (typeof(guest_cpu_ns) = 'integer'),
    inference_cpu_ns  BIGINT NOT NULL CHECK (typeof(inference_cpu_ns) = 'integer'),
    cold_start_cpu_ns BIGINT NOT NULL CHECK (typeof(cold_start_cpu_ns) = 'integer'),
    memory_gb_s       BIGINT NOT NULL CHECK (typeof(memory_gb_s) = 'integer'), -- whole gigabyte-seconds (10^9 bytes for 10^9 ns)
    memory_byte_ns    BIGINT NOT NULL, -- byte-nanoseconds, 0 to 10^18 - 1
    bytes_in          BIGINT NOT NULL CHECK (typeof(bytes_in) = 'integer'),
    bytes_out         BIGINT NOT NULL CHECK (typeof(bytes_out) = 'integer'),
    charge_units      BIGINT NOT NULL CHECK (typeof(charge_units) = 'integer'),
    charge_attos      BIGINT NOT NULL, -- 10^-18 units, 0 to 10^18 - 1
    PRIMARY KEY (tenant, day, period, function, currency)
) WITHOUT ROWID;
INSERT INTO usage_days_new (tenant, day, function, currency, invocations, guest_cpu_ns, inference_cpu_ns, cold_start_cpu_ns,
    memory_gb_s, memory_byte_ns, bytes_in, bytes_out, charge_units, charge_attos)
SELECT tenant, day, function, 'XXX', invocations, guest_cpu_ns, inference_cpu_ns, cold_start_cpu_ns,
    memory_gb_s, memory_byte_ns, bytes_in, bytes_out, charge_units, charge_attos
FROM usage_days;
DROP TABLE usage_days;
ALTER TABLE usage_days_new RENAME TO usage_days;
