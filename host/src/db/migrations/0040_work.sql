-- Work of the host for a function is on its record, and deployments have records, too.
ALTER TABLE usage_records ADD COLUMN kind TEXT NOT NULL DEFAULT 'invocation';
ALTER TABLE usage_records ADD COLUMN outbound_cpu_ns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_records ADD COLUMN handler_cpu_ns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_records ADD COLUMN deploy_cpu_ns BIGINT NOT NULL DEFAULT 0;
-- Null in records of before, whose models held their memory for infer_ns.
ALTER TABLE usage_records ADD COLUMN model_memory_ns BIGINT;
-- `invocations?kind=deployment`: a few among many.
CREATE INDEX usage_records_deployments ON usage_records (tenant, id) WHERE kind = 'deployment';

ALTER TABLE usage_days ADD COLUMN deployments BIGINT NOT NULL DEFAULT 0 CHECK (typeof(deployments) = 'integer');
ALTER TABLE usage_days ADD COLUMN outbound_cpu_ns BIGINT NOT NULL DEFAULT 0 CHECK (typeof(outbound_cpu_ns) = 'integer');
ALTER TABLE usage_days ADD COLUMN handler_cpu_ns BIGINT NOT NULL DEFAULT 0 CHECK (typeof(handler_cpu_ns) = 'integer');
ALTER TABLE usage_days ADD COLUMN deploy_cpu_ns BIGINT NOT NULL DEFAULT 0 CHECK (typeof(deploy_cpu_ns) = 'integer');
