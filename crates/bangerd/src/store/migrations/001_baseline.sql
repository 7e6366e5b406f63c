-- Names for read-only bases. `record` is what the API shows, without its users.
CREATE TABLE images (
    name        TEXT PRIMARY KEY,
    base_digest TEXT NOT NULL,
    kernel      TEXT,
    record      TEXT NOT NULL CHECK (json_valid(record))
) STRICT, WITHOUT ROWID;
CREATE INDEX images_by_base ON images (base_digest);

-- `spec` is what was asked for and never changes; `observed` is what became of it.
CREATE TABLE vms (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    base_digest TEXT NOT NULL,
    kernel      TEXT NOT NULL,
    state       TEXT NOT NULL,
    transition  INTEGER NOT NULL,
    spec        TEXT NOT NULL CHECK (json_valid(spec)),
    observed    TEXT NOT NULL CHECK (json_valid(observed))
) STRICT, WITHOUT ROWID;
CREATE INDEX vms_by_base ON vms (base_digest);
CREATE INDEX vms_by_kernel ON vms (kernel);

-- What must be given back. A row is there before the thing is, and until the thing is gone; a VM
-- cannot be forgotten while one remains. `claim` is what no two VMs may hold at once.
CREATE TABLE ledger (
    vm       TEXT NOT NULL REFERENCES vms (id) ON DELETE RESTRICT,
    kind     TEXT NOT NULL,
    claim    TEXT,
    resource TEXT NOT NULL CHECK (json_valid(resource)),
    PRIMARY KEY (vm, kind),
    UNIQUE (kind, claim)
) STRICT, WITHOUT ROWID;
