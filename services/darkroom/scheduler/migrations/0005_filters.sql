-- A tenant's generations of one state or one model are listed without reading all the others. IF NOT EXISTS: where there are many
-- millions, an operator may build them CONCURRENTLY beforehand.

CREATE INDEX IF NOT EXISTS generation_by_state ON generation (tenant_id, state, generation_id DESC);
CREATE INDEX IF NOT EXISTS generation_by_model ON generation (tenant_id, model, generation_id DESC);
