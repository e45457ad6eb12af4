/* ia3: few-shot fine-tuning as a SQL function. Tables, views and functions of version 1.0. */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION ia3" to load this file. \quit

-- Not IF NOT EXISTS: a schema that somebody else made must not receive our tables.
CREATE SCHEMA ia3;
GRANT USAGE ON SCHEMA ia3 TO PUBLIC;

--
-- Tables
--
-- A task and what applies to its active version. Versions count up and are never reused: next_version
-- remembers the last one also when it was dropped.
CREATE TABLE ia3.task (
    task pg_catalog.text PRIMARY KEY
        CONSTRAINT task_name CHECK (pg_catalog.octet_length(task) OPERATOR(pg_catalog.>) 0
            AND pg_catalog.octet_length(task) OPERATOR(pg_catalog.<=) 200
            AND pg_catalog.strpos(task, '@') OPERATOR(pg_catalog.=) 0),
    owner pg_catalog.regrole NOT NULL,
    backbone pg_catalog.text NOT NULL,
    template pg_catalog.text[] NOT NULL,
    choices pg_catalog.text[],
    active_version pg_catalog.int4,
    next_version pg_catalog.int4 NOT NULL DEFAULT 1,
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    comment pg_catalog.text,
    readers pg_catalog.regrole[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE ia3.task IS 'few-shot tasks: who owns them and how their active version is asked';
COMMENT ON COLUMN ia3.task.template IS 'of the active version; {field}, {choices}, {{ and }}';
COMMENT ON COLUMN ia3.task.choices IS 'of the active version; NULL when every call brings its own';
COMMENT ON COLUMN ia3.task.readers IS 'roles that may read the task besides its owner, - for everybody; see ia3_grant';

-- Trained vectors, one row per version. Rows never change; the database computes the digest by which
-- engines cache them, so that nobody can pass one adapter off as another.
CREATE TABLE ia3.adapter (
    task pg_catalog.text NOT NULL REFERENCES ia3.task (task) ON DELETE CASCADE,
    version pg_catalog.int4 NOT NULL CHECK (version OPERATOR(pg_catalog.>) 0),
    vectors pg_catalog.bytea NOT NULL,
    digest pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (pg_catalog.sha256(vectors)) STORED,
    backbone_digest pg_catalog.bytea NOT NULL
        CHECK (pg_catalog.octet_length(backbone_digest) OPERATOR(pg_catalog.=) 32),
    parent_version pg_catalog.int4,
    examples pg_catalog.int4,
    recipe pg_catalog.jsonb NOT NULL,
    metrics pg_catalog.jsonb,
    created_by pg_catalog.name NOT NULL,
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (task, version)
);
-- Trained numbers do not compress; fetching them should not try.
ALTER TABLE ia3.adapter ALTER COLUMN vectors SET STORAGE EXTERNAL;
COMMENT ON TABLE ia3.adapter IS 'versions of tasks; immutable';
COMMENT ON COLUMN ia3.adapter.vectors IS 'a PEFT adapter_model.safetensors, fp32';
COMMENT ON COLUMN ia3.adapter.backbone_digest IS 'SHA-256 of the backbone it was trained on';
COMMENT ON COLUMN ia3.adapter.parent_version IS 'the version of the same task that training started from';

-- Pre-trainings that are not finished: what it takes to go on after a restart. One per task, gone at the end.
CREATE TABLE ia3.checkpoint (
    task pg_catalog.text PRIMARY KEY REFERENCES ia3.task (task) ON DELETE CASCADE,
    step pg_catalog.int4 NOT NULL CHECK (step OPERATOR(pg_catalog.>) 0),
    recipe pg_catalog.jsonb NOT NULL,
    backbone_digest pg_catalog.bytea NOT NULL,
    state pg_catalog.bytea NOT NULL,
    losses pg_catalog.float8[] NOT NULL,
    seconds pg_catalog.float8 NOT NULL,
    created_by pg_catalog.name NOT NULL,
    saved_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now()
);
ALTER TABLE ia3.checkpoint ALTER COLUMN state SET STORAGE EXTERNAL;
COMMENT ON TABLE ia3.checkpoint IS 'pre-trainings under way or interrupted, from which ia3_pretrain goes on';

CREATE FUNCTION ia3.adapter_is_immutable() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_adapter_is_immutable' LANGUAGE C;
CREATE TRIGGER adapter_is_immutable BEFORE UPDATE ON ia3.adapter
    FOR EACH ROW EXECUTE FUNCTION ia3.adapter_is_immutable();

SELECT pg_catalog.pg_extension_config_dump('ia3.task', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.adapter', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.checkpoint', '');

--
-- Row security: the functions run as their caller. A task belongs to its owner and the roles that are
-- members of it; readers see it and change nothing. An adapter is visible where its task is (the subquery
-- obeys the policies of ia3.task).
--
CREATE FUNCTION ia3.task_readable(owner pg_catalog.regrole, readers pg_catalog.regrole[])
    RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_task_readable' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ia3.task_readable IS 'has the current role the privileges of the owner or of a reader?';

ALTER TABLE ia3.task ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.adapter ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.checkpoint ENABLE ROW LEVEL SECURITY;

CREATE POLICY task_read ON ia3.task FOR SELECT USING (ia3.task_readable(owner, readers));
CREATE POLICY task_insert ON ia3.task FOR INSERT
    WITH CHECK (pg_catalog.pg_has_role(owner::pg_catalog.oid, 'USAGE'::pg_catalog.text));
CREATE POLICY task_update ON ia3.task FOR UPDATE
    USING (pg_catalog.pg_has_role(owner::pg_catalog.oid, 'USAGE'::pg_catalog.text));
CREATE POLICY task_delete ON ia3.task FOR DELETE
    USING (pg_catalog.pg_has_role(owner::pg_catalog.oid, 'USAGE'::pg_catalog.text));

CREATE POLICY adapter_read ON ia3.adapter FOR SELECT
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task));
CREATE POLICY adapter_insert ON ia3.adapter FOR INSERT
    WITH CHECK (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task
        AND pg_catalog.pg_has_role(t.owner::pg_catalog.oid, 'USAGE'::pg_catalog.text)));
CREATE POLICY adapter_delete ON ia3.adapter FOR DELETE
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task
        AND pg_catalog.pg_has_role(t.owner::pg_catalog.oid, 'USAGE'::pg_catalog.text)));

CREATE POLICY checkpoint_all ON ia3.checkpoint
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) checkpoint.task
        AND pg_catalog.pg_has_role(t.owner::pg_catalog.oid, 'USAGE'::pg_catalog.text)));

-- Only functions insert (as the owner of the tables): what becomes an adapter is decided by who may execute
-- them. Nor may a task be renamed, which would tell by a unique violation what others' tasks are called.
GRANT SELECT, DELETE ON ia3.task TO PUBLIC;
GRANT UPDATE (owner, backbone, template, choices, active_version, comment, readers) ON ia3.task TO PUBLIC;
GRANT SELECT, DELETE ON ia3.adapter TO PUBLIC;
GRANT SELECT, DELETE ON ia3.checkpoint TO PUBLIC;

--
-- Training
--
CREATE FUNCTION @extschema@.ia3_train(
    task pg_catalog.text,
    query pg_catalog.text,
    template pg_catalog.text[] DEFAULT NULL,
    choices pg_catalog.text[] DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT 1000,
    batch_size pg_catalog.int4 DEFAULT 8,
    learning_rate pg_catalog.float8 DEFAULT NULL,
    warmup_ratio pg_catalog.float8 DEFAULT 0.06,
    lm_weight pg_catalog.float8 DEFAULT 1,
    unlikelihood_weight pg_catalog.float8 DEFAULT 1,
    length_norm_weight pg_catalog.float8 DEFAULT 1,
    dropout pg_catalog.float8 DEFAULT NULL,
    seed pg_catalog.int8 DEFAULT NULL,
    activate pg_catalog.bool DEFAULT true,
    loss_averaging pg_catalog.text DEFAULT 'batch',
    method pg_catalog.text DEFAULT 'ia3'
) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_train IS 'trains a new version of a task on the rows of a query';
-- Training keeps a processor busy for minutes; scoring is open to all.
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_train FROM PUBLIC;

-- A procedure, since it commits at every checkpoint.
CREATE PROCEDURE @extschema@.ia3_pretrain(
    task pg_catalog.text,
    query pg_catalog.text,
    template pg_catalog.text[] DEFAULT NULL,
    templates pg_catalog.jsonb DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT 10000,
    batch_size pg_catalog.int4 DEFAULT 16,
    learning_rate pg_catalog.float8 DEFAULT 3e-4,
    warmup_ratio pg_catalog.float8 DEFAULT 0.06,
    dropout pg_catalog.float8 DEFAULT NULL,
    seed pg_catalog.int8 DEFAULT NULL,
    activate pg_catalog.bool DEFAULT true,
    loss_averaging pg_catalog.text DEFAULT 'batch',
    checkpoint_every pg_catalog.int4 DEFAULT 1000,
    resume pg_catalog.bool DEFAULT true
)
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.ia3_pretrain IS
    'trains one adapter on the examples of many tasks, for others to start from';
REVOKE EXECUTE ON PROCEDURE @extschema@.ia3_pretrain FROM PUBLIC;

--
-- Classification. One overload per arity, so that STRICT holds: a NULL argument gives no rows.
--
CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, input pg_catalog.text,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, input pg_catalog.text,
    choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, fields pg_catalog.jsonb,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(input pg_catalog.text, choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_zero_shot' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;

CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, input pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, input pg_catalog.text,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, fields pg_catalog.jsonb) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(input pg_catalog.text, choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_zero_shot' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;

-- The same as a window function, which batches by itself: ia3_predict_window(...) OVER ().
CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, input pg_catalog.text)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, input pg_catalog.text,
    choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, fields pg_catalog.jsonb)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(input pg_catalog.text, choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_zero_shot' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;

--
-- Generation. Greedy decoding always gives the same text; sampling is VOLATILE, since it draws a seed when it
-- gets none (and is therefore not STRICT, but NULL in any other argument gives NULL).
--
CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, input pg_catalog.text,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, input pg_catalog.text,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_text' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, fields pg_catalog.jsonb,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, fields pg_catalog.jsonb,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_fields' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(input pg_catalog.text,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_zero_shot' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(input pg_catalog.text,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_zero_shot' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;

--
-- Evaluation: they run a query, whose functions may do what they like (but write).
--
CREATE FUNCTION @extschema@.ia3_evaluate(task pg_catalog.text, query pg_catalog.text,
    OUT n pg_catalog.int8, OUT accuracy pg_catalog.float8, OUT macro_f1 pg_catalog.float8,
    OUT mean_score_gap pg_catalog.float8, OUT seconds pg_catalog.float8) RETURNS pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_evaluate IS 'how good a task is on the labelled rows of a query';
CREATE FUNCTION @extschema@.ia3_confusion(task pg_catalog.text, query pg_catalog.text,
    OUT label pg_catalog.text, OUT predicted pg_catalog.text, OUT n pg_catalog.int8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000 ROWS 16;
COMMENT ON FUNCTION @extschema@.ia3_confusion IS 'which labels of the rows of a query a task takes for which';
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text, version pg_catalog.int4) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_plot_version' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text, query pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_plot_query' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
CREATE FUNCTION @extschema@.ia3_sparkline("values" pg_catalog.jsonb) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_sparkline IS 'numbers as a line of blocks, at most 20';

--
-- Versions
--
CREATE FUNCTION @extschema@.ia3_activate(task pg_catalog.text, version pg_catalog.int4)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION @extschema@.ia3_drop(task pg_catalog.text) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION @extschema@.ia3_drop(task pg_catalog.text, version pg_catalog.int4)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME', 'ia3_drop_version' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

--
-- Sharing: read access for a role and its members, or for everybody ('public')
--
CREATE FUNCTION @extschema@.ia3_grant(task pg_catalog.text, role pg_catalog.name) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_grant IS 'lets a role read a task';
CREATE FUNCTION @extschema@.ia3_revoke(task pg_catalog.text, role pg_catalog.name) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_revoke IS 'takes back what ia3_grant gave';

--
-- Interchange. The stored bytes are a PEFT adapter_model.safetensors; whoever may see a task may export it.
-- Importing needs a grant; merging needs the rights of pg_write_server_files.
--
CREATE FUNCTION @extschema@.ia3_export(task pg_catalog.text) RETURNS pg_catalog.bytea
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION @extschema@.ia3_export IS 'an adapter as adapter_model.safetensors of PEFT';
CREATE FUNCTION @extschema@.ia3_export_config(task pg_catalog.text) RETURNS pg_catalog.jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION @extschema@.ia3_export_config IS 'the adapter_config.json that belongs to ia3_export';
CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea)
    RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea,
    config pg_catalog.jsonb) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_merge(task pg_catalog.text, directory pg_catalog.text)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_merge IS
    'writes a checkpoint with the vectors of a task folded into the weights';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_merge(pg_catalog.text, pg_catalog.text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.jsonb)
    FROM PUBLIC;

--
-- Looking inside
--
CREATE FUNCTION @extschema@.ia3_version() RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_tokenize(input pg_catalog.text,
    OUT "position" pg_catalog.int4, OUT id pg_catalog.int4, OUT piece pg_catalog.text)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 50;
CREATE FUNCTION @extschema@.ia3_tokenize(input pg_catalog.text, backbone pg_catalog.text,
    OUT "position" pg_catalog.int4, OUT id pg_catalog.int4, OUT piece pg_catalog.text)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 50;

CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.jsonb)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- A view runs as its owner, whom row security does not bind, so it repeats the policy of ia3.task. Functions
-- in a view are asked by the caller.
CREATE VIEW ia3.adapters WITH (security_barrier) AS
    SELECT a.task,
           a.version,
           (a.version OPERATOR(pg_catalog.=) t.active_version) IS TRUE AS active,
           t.owner,
           COALESCE(a.recipe OPERATOR(pg_catalog.->>) 'backbone', t.backbone) AS backbone,
           COALESCE(a.recipe OPERATOR(pg_catalog.->>) 'method', 'ia3') AS method,
           a.parent_version,
           a.examples,
           pg_catalog.octet_length(a.vectors) AS size,
           ((a.metrics OPERATOR(pg_catalog.->>) 'loss')::pg_catalog.float8) AS loss,
           @extschema@.ia3_sparkline(a.metrics OPERATOR(pg_catalog.->) 'loss_curve') AS loss_curve,
           a.created_by,
           a.created_at,
           a.recipe,
           a.metrics,
           a.digest,
           a.backbone_digest
      FROM ia3.adapter a
      JOIN ia3.task t ON t.task OPERATOR(pg_catalog.=) a.task
     WHERE ia3.task_readable(t.owner, t.readers);
COMMENT ON VIEW ia3.adapters IS 'versions of tasks, one row each';
GRANT SELECT ON ia3.adapters TO PUBLIC;

--
-- Engines and trainings, from shared memory; both answer at once, whatever state an engine is in.
--
CREATE FUNCTION @extschema@.ia3_stat_engine(
    OUT backbone pg_catalog.text,
    OUT path pg_catalog.text,
    OUT device pg_catalog.text,
    OUT dtype pg_catalog.text,
    OUT state pg_catalog.text,
    OUT percent pg_catalog.int4,
    OUT pid pg_catalog.int4,
    OUT since pg_catalog.timestamptz,
    OUT restarts pg_catalog.int8,
    OUT message pg_catalog.text,
    OUT device_description pg_catalog.text,
    OUT model_type pg_catalog.text,
    OUT parameters pg_catalog.int8,
    OUT bytes pg_catalog.int8,
    OUT backbone_digest pg_catalog.bytea,
    OUT queue_rows pg_catalog.int8,
    OUT batches pg_catalog.int8,
    OUT rows pg_catalog.int8,
    OUT input_tokens pg_catalog.int8,
    OUT decoder_tokens pg_catalog.int8,
    OUT mean_rows_per_batch pg_catalog.float8,
    OUT distinct_tasks_per_batch pg_catalog.float8,
    OUT max_batch_rows pg_catalog.int8,
    OUT dedup_rows pg_catalog.int8,
    OUT cache_hits pg_catalog.int8,
    OUT cache_misses pg_catalog.int8,
    OUT cached_adapters pg_catalog.int8,
    OUT cached_bytes pg_catalog.int8,
    OUT train_jobs pg_catalog.int8,
    OUT train_steps pg_catalog.int8,
    OUT score_seconds pg_catalog.float8,
    OUT train_seconds pg_catalog.float8,
    OUT score_wait_seconds pg_catalog.float8,
    OUT train_wait_seconds pg_catalog.float8,
    OUT connections pg_catalog.int8,
    OUT outstanding pg_catalog.int8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
CREATE VIEW @extschema@.ia3_stat_engine AS
    SELECT s.backbone, s.path, s.device, s.dtype, s.state, s.percent,
           s.pid, s.since, s.restarts, s.message, s.device_description, s.model_type, s.parameters,
           s.bytes, s.backbone_digest, s.queue_rows, s.batches, s.rows, s.input_tokens,
           s.decoder_tokens, s.mean_rows_per_batch, s.distinct_tasks_per_batch, s.max_batch_rows, s.dedup_rows,
           s.cache_hits, s.cache_misses, s.cached_adapters, s.cached_bytes, s.train_jobs, s.train_steps,
           s.score_seconds, s.train_seconds, s.score_wait_seconds, s.train_wait_seconds, s.connections,
           s.outstanding
      FROM @extschema@.ia3_stat_engine() s;
COMMENT ON VIEW @extschema@.ia3_stat_engine IS 'state and counters of the engines of every backbone';
GRANT SELECT ON @extschema@.ia3_stat_engine TO PUBLIC;

CREATE FUNCTION @extschema@.ia3_stat_progress_train(
    OUT pid pg_catalog.int4,
    OUT datid pg_catalog.oid,
    OUT usesysid pg_catalog.oid,
    OUT task pg_catalog.text,
    OUT step pg_catalog.int4,
    OUT steps pg_catalog.int4,
    OUT loss pg_catalog.float8,
    OUT rows_per_second pg_catalog.float8,
    OUT seconds_left pg_catalog.float8,
    OUT started pg_catalog.timestamptz)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
CREATE VIEW @extschema@.ia3_stat_progress_train AS
    SELECT s.pid, s.datid, d.datname, s.usesysid, u.rolname AS usename, s.task, s.step, s.steps, s.loss,
           s.rows_per_second, s.seconds_left, s.started
      FROM @extschema@.ia3_stat_progress_train() s
      LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.datid
      LEFT JOIN pg_catalog.pg_roles u ON u.oid OPERATOR(pg_catalog.=) s.usesysid;
COMMENT ON VIEW @extschema@.ia3_stat_progress_train IS 'trainings under way, one row per backend';
GRANT SELECT ON @extschema@.ia3_stat_progress_train TO PUBLIC;
