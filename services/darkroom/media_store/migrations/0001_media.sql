-- Bytes in blob storage; see darkroom/blob_table.py. A row is there before its bytes and goes after them.
CREATE TABLE blob (
    blob_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    blob_key text NOT NULL UNIQUE,
    touched_at timestamptz NOT NULL DEFAULT now()
);

-- Media. A deleted piece stays as a row without bytes, so that deleting it again is no error.
CREATE TABLE media (
    media_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    generation_id text NOT NULL,
    media_type text NOT NULL,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    deleted_at timestamptz,
    blob_id bigint REFERENCES blob,
    CHECK ((deleted_at IS NULL) = (blob_id IS NOT NULL))
);

-- The same bytes put again for the same generation (or again as an upload) are the same piece.
CREATE UNIQUE INDEX media_content ON media (tenant_id, generation_id, sha256) WHERE deleted_at IS NULL;
CREATE INDEX media_expiry ON media (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX media_blob ON media (blob_id);
