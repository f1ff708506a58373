-- When a version was called and what its starts cost: what keep-alive goes by after a restart of the host.
CREATE TABLE histories (
    tenant   TEXT NOT NULL,
    function TEXT NOT NULL,
    version  BIGINT NOT NULL,
    history  TEXT NOT NULL, -- JSON, vesta-history/1
    PRIMARY KEY (tenant, function, version),
    FOREIGN KEY (tenant, function, version) REFERENCES versions (tenant, function, number) ON DELETE CASCADE
);
