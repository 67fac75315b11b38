-- What must survive a restart of the meter: who pays, what things cost, what was used, and the ledger. Money is in nano-units.

CREATE TABLE tenant (
    tenant_id  text PRIMARY KEY,
    name       text NOT NULL,
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, currency)
);

CREATE TABLE api_key (
    key_id     text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenant,
    name       text NOT NULL,
    prefix     text NOT NULL UNIQUE,               -- "dk_" and 12 hex digits: public
    sha256     bytea NOT NULL,                     -- of the whole key; 256 random bits need no slow hash
    scopes     text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_key_by_tenant ON api_key (tenant_id, key_id DESC);

-- A version is in force from effective_from until the next one's, so that ranges can neither overlap nor leave a gap.
CREATE TABLE price_version (
    price_version_id     text PRIMARY KEY,
    model                text NOT NULL,
    currency             text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    nanos_per_image      bigint NOT NULL CHECK (nanos_per_image BETWEEN 0 AND 1000000000000),
    nanos_per_megapixel  bigint NOT NULL CHECK (nanos_per_megapixel BETWEEN 0 AND 1000000000000),
    nanos_per_gpu_second bigint NOT NULL CHECK (nanos_per_gpu_second BETWEEN 0 AND 1000000000000),
    minimum_nanos        bigint NOT NULL CHECK (minimum_nanos BETWEEN 0 AND 1000000000000),
    effective_from       timestamptz NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now(),
    UNIQUE (model, effective_from)
);

-- What operators' idempotency keys made.
CREATE TABLE idempotency (
    method          text NOT NULL,
    idempotency_key text NOT NULL,
    params_sha256   bytea NOT NULL,
    subject_id      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (method, idempotency_key)
);

-- The ledger. subject_id: an operator's request, a grant_id, a release_id or a generation_id, each posted once.
CREATE TABLE txn (
    txn_id     text PRIMARY KEY,
    tenant_id  text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('CREDIT', 'GRANT', 'RELEASE', 'CHARGE')),
    subject_id text NOT NULL,
    currency   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, subject_id),
    FOREIGN KEY (tenant_id, currency) REFERENCES tenant (tenant_id, currency)
);
CREATE INDEX txn_by_tenant ON txn (tenant_id);

-- AVAILABLE, HELD and RECEIVABLE (what it owes, below zero) are the tenant's; REVENUE and CREDIT are the platform's.
CREATE TABLE entry (
    txn_id  text NOT NULL REFERENCES txn,
    account text NOT NULL CHECK (account IN ('AVAILABLE', 'HELD', 'RECEIVABLE', 'REVENUE', 'CREDIT')),
    nanos   bigint NOT NULL CHECK (nanos <> 0),
    PRIMARY KEY (txn_id, account)
);

-- The sums of a tenant's entries; its row is the lock of all that moves the tenant's money.
CREATE TABLE balance (
    tenant_id        text PRIMARY KEY REFERENCES tenant,
    available_nanos  bigint NOT NULL DEFAULT 0 CHECK (available_nanos >= 0),
    held_nanos       bigint NOT NULL DEFAULT 0 CHECK (held_nanos >= 0),
    receivable_nanos bigint NOT NULL DEFAULT 0 CHECK (receivable_nanos <= 0),
    CHECK (receivable_nanos = 0 OR (available_nanos = 0 AND held_nanos = 0))
);

CREATE TABLE lease_grant (
    grant_id      text PRIMARY KEY,
    txn_id        text NOT NULL UNIQUE REFERENCES txn,
    tenant_id     text NOT NULL REFERENCES tenant,
    wanted_nanos  bigint NOT NULL,
    least_nanos   bigint NOT NULL,
    granted_nanos bigint NOT NULL CHECK (granted_nanos BETWEEN least_nanos AND wanted_nanos),
    CHECK (least_nanos > 0)
);
CREATE INDEX lease_grant_by_tenant ON lease_grant (tenant_id);

CREATE TABLE lease_release (
    release_id     text PRIMARY KEY,
    txn_id         text NOT NULL UNIQUE REFERENCES txn,
    tenant_id      text NOT NULL REFERENCES tenant,
    released_nanos bigint NOT NULL CHECK (released_nanos > 0)
);
CREATE INDEX lease_release_by_tenant ON lease_release (tenant_id);

-- Every finished generation's outcome; the free ones end here, with their reason.
CREATE TABLE usage_event (
    generation_id     text PRIMARY KEY,
    tenant_id         text NOT NULL REFERENCES tenant,
    model             text NOT NULL,
    price_version_id  text NOT NULL REFERENCES price_version,
    gpu_time_us       bigint NOT NULL CHECK (gpu_time_us >= 0),
    steps             bigint NOT NULL CHECK (steps >= 0),
    images            bigint NOT NULL CHECK (images >= 0),
    pixels            bigint NOT NULL CHECK (pixels >= 0),
    media_duration_us bigint NOT NULL CHECK (media_duration_us >= 0),
    training_steps    bigint NOT NULL CHECK (training_steps >= 0),
    currency          text NOT NULL,
    estimate_nanos    bigint NOT NULL CHECK (estimate_nanos >= 0),
    free_reason       text NOT NULL,               -- empty: charged
    finished_at       timestamptz NOT NULL,
    tags              jsonb NOT NULL,
    payload_sha256    bytea NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX usage_event_by_time ON usage_event (tenant_id, finished_at);

CREATE TABLE charge (
    charge_id     text PRIMARY KEY,
    generation_id text NOT NULL UNIQUE REFERENCES usage_event,
    txn_id        text NOT NULL UNIQUE REFERENCES txn,
    tenant_id     text NOT NULL REFERENCES tenant,
    amount_nanos  bigint NOT NULL CHECK (amount_nanos >= 0),
    held_nanos    bigint NOT NULL CHECK (held_nanos BETWEEN 0 AND amount_nanos), -- the part taken from held money
    lines         jsonb NOT NULL
);
CREATE INDEX charge_by_tenant ON charge (tenant_id);

-- Entries of a transaction sum to zero, checked at commit.
CREATE FUNCTION entries_must_sum_to_zero() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(nanos) FROM entry WHERE txn_id = NEW.txn_id) <> 0 THEN
        RAISE EXCEPTION 'the entries of transaction % do not sum to zero', NEW.txn_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entries_sum_to_zero AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION entries_must_sum_to_zero();

-- What was written stays: corrections are new lines.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['price_version', 'txn', 'entry', 'lease_grant', 'lease_release', 'usage_event', 'charge'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END $$;

-- The platform's own tenant: operators' keys belong to it.
INSERT INTO tenant (tenant_id, name, currency) VALUES ('ten_' || repeat('0', 32), 'platform', 'USD');
INSERT INTO balance (tenant_id) VALUES ('ten_' || repeat('0', 32));
