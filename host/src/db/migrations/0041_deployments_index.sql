-- The deployments of one function, newest first: few among its invocations.
CREATE INDEX usage_records_deployments_of_function ON usage_records (tenant, function, id) WHERE kind = 'deployment';
