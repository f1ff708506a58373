-- The place in the journal of the last record that the ledger has taken, kept up in the transaction that posts: a record that comes again
-- after a crash is known by its place. NULL: none yet.
CREATE TABLE ledger_progress (
    only    BIGINT PRIMARY KEY CHECK (only = 1),
    segment BIGINT,
    bytes   BIGINT
);
INSERT INTO ledger_progress (only, segment, bytes) VALUES (1, NULL, NULL);

-- The last housekeeping whose clock was believed, and the start before which records have been pruned.
CREATE TABLE ledger_housekeeping (
    only                  BIGINT PRIMARY KEY CHECK (only = 1),
    believed_unix_ns      BIGINT,
    pruned_before_unix_ns BIGINT NOT NULL
);
INSERT INTO ledger_housekeeping (only, believed_unix_ns, pruned_before_unix_ns)
SELECT 1, NULL, min(pruned_before_unix_ns, unixepoch('now') * 1000000000) FROM ledger_horizon;

-- The horizon is of use for records that a host from before places has left in its journal, and no more. It does not move any more; one
-- that a wrong clock has put into the future is put back to a day ago, before which nothing waits in a journal.
UPDATE ledger_horizon SET pruned_before_unix_ns = min(pruned_before_unix_ns, (unixepoch('now') - 86400) * 1000000000);

-- `invocations?function=`.
CREATE INDEX usage_records_by_function ON usage_records (tenant, function, id);
-- Days that are old become months.
CREATE INDEX usage_days_by_age ON usage_days (day) WHERE period = 'day';
