-- Bytes in blob storage; see darkroom/blob_table.py. A row is there before its bytes and goes after them.
CREATE TABLE blob (
    blob_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    blob_key text NOT NULL UNIQUE,
    touched_at timestamptz NOT NULL DEFAULT now()
);

-- Adapters. A deleted one stays as a row without bytes, so that deleting it again is no error.
CREATE TABLE lora (
    adapter_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    name text NOT NULL,
    base_model text NOT NULL,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    rank int NOT NULL CHECK (rank > 0),
    pairs int NOT NULL CHECK (pairs > 0),
    dtype text NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    blob_id bigint REFERENCES blob,
    CHECK ((deleted_at IS NULL) = (blob_id IS NOT NULL))
);

CREATE UNIQUE INDEX lora_content ON lora (tenant_id, base_model, sha256) WHERE deleted_at IS NULL;
CREATE INDEX lora_newest ON lora (tenant_id, adapter_id DESC) WHERE deleted_at IS NULL;
CREATE INDEX lora_blob ON lora (blob_id);
