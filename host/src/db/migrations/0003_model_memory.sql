-- The most that a run of a model held beyond the model's weights, in bytes. What ran before this column was not measured.
ALTER TABLE usage_records ADD COLUMN model_memory_peak_bytes BIGINT NOT NULL DEFAULT 0;
