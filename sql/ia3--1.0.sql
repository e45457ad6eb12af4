/* ia3: few-shot fine-tuning as a SQL function. Schema, tables, functions and views of version 1.0. */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION ia3" to load this file. \quit

-- There is no IF NOT EXISTS here: a schema that somebody else has created must not receive our tables.
CREATE SCHEMA ia3;
GRANT USAGE ON SCHEMA ia3 TO PUBLIC;
COMMENT ON SCHEMA ia3 IS 'tables of the extension ia3: tasks, their versions, and checkpoints of pre-training runs';

--
-- Roles. In this cluster a role is its OID, whatever its name; in a dump or a replica it is its name, and one that does
-- not exist there is no error.
--
CREATE TYPE ia3.role;
CREATE FUNCTION ia3.role_in(pg_catalog.cstring) RETURNS ia3.role
    AS 'MODULE_PATHNAME', 'ia3_role_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_out(ia3.role) RETURNS pg_catalog.cstring
    AS 'MODULE_PATHNAME', 'ia3_role_out' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_recv(pg_catalog.internal) RETURNS ia3.role
    AS 'MODULE_PATHNAME', 'ia3_role_recv' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_send(ia3.role) RETURNS pg_catalog.bytea
    AS 'MODULE_PATHNAME', 'ia3_role_send' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE TYPE ia3.role (
    INPUT = ia3.role_in, OUTPUT = ia3.role_out, RECEIVE = ia3.role_recv, SEND = ia3.role_send,
    INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = plain
);
COMMENT ON TYPE ia3.role IS 'a role, by OID in its own cluster and by name in others; it need not exist';

CREATE FUNCTION ia3.role(pg_catalog.regrole) RETURNS ia3.role
    AS 'MODULE_PATHNAME', 'ia3_role_from_regrole' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_regrole(ia3.role) RETURNS pg_catalog.regrole
    AS 'MODULE_PATHNAME', 'ia3_role_to_regrole' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE CAST (pg_catalog.regrole AS ia3.role) WITH FUNCTION ia3.role(pg_catalog.regrole) AS IMPLICIT;
CREATE CAST (ia3.role AS pg_catalog.regrole) WITH FUNCTION ia3.role_regrole(ia3.role);

CREATE FUNCTION ia3.role_cmp(ia3.role, ia3.role) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME', 'ia3_role_cmp' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_hash(ia3.role) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME', 'ia3_role_hash' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_lt(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_lt' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_le(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_le' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_eq(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_eq' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_ne(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_ne' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_ge(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_ge' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.role_gt(ia3.role, ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_role_gt' LANGUAGE C STABLE STRICT PARALLEL SAFE;
-- The operators are where the functions are, so that whoever finds those can write owner = 'alice'.
CREATE OPERATOR @extschema@.= (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_eq,
    COMMUTATOR = OPERATOR(@extschema@.=), NEGATOR = OPERATOR(@extschema@.<>),
    RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel, HASHES, MERGES);
CREATE OPERATOR @extschema@.<> (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_ne,
    COMMUTATOR = OPERATOR(@extschema@.<>), NEGATOR = OPERATOR(@extschema@.=),
    RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel);
CREATE OPERATOR @extschema@.< (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_lt,
    COMMUTATOR = OPERATOR(@extschema@.>), NEGATOR = OPERATOR(@extschema@.>=),
    RESTRICT = pg_catalog.scalarltsel, JOIN = pg_catalog.scalarltjoinsel);
CREATE OPERATOR @extschema@.<= (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_le,
    COMMUTATOR = OPERATOR(@extschema@.>=), NEGATOR = OPERATOR(@extschema@.>),
    RESTRICT = pg_catalog.scalarlesel, JOIN = pg_catalog.scalarlejoinsel);
CREATE OPERATOR @extschema@.>= (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_ge,
    COMMUTATOR = OPERATOR(@extschema@.<=), NEGATOR = OPERATOR(@extschema@.<),
    RESTRICT = pg_catalog.scalargesel, JOIN = pg_catalog.scalargejoinsel);
CREATE OPERATOR @extschema@.> (LEFTARG = ia3.role, RIGHTARG = ia3.role, FUNCTION = ia3.role_gt,
    COMMUTATOR = OPERATOR(@extschema@.<), NEGATOR = OPERATOR(@extschema@.<=),
    RESTRICT = pg_catalog.scalargtsel, JOIN = pg_catalog.scalargtjoinsel);
CREATE OPERATOR CLASS ia3.role_ops DEFAULT FOR TYPE ia3.role USING btree AS
    OPERATOR 1 @extschema@.<, OPERATOR 2 @extschema@.<=, OPERATOR 3 @extschema@.=,
    OPERATOR 4 @extschema@.>=, OPERATOR 5 @extschema@.>,
    FUNCTION 1 ia3.role_cmp(ia3.role, ia3.role);
CREATE OPERATOR CLASS ia3.role_hash_ops DEFAULT FOR TYPE ia3.role USING hash AS
    OPERATOR 1 @extschema@.=, FUNCTION 1 ia3.role_hash(ia3.role);

--
-- Tables
--
-- A task, together with the prompt and the choices of its active version. Version numbers count up and are never
-- reused, which is why next_version is stored: the highest version may have been dropped.
CREATE TABLE ia3.task (
    task pg_catalog.text PRIMARY KEY
        CONSTRAINT task_name CHECK (pg_catalog.octet_length(task) OPERATOR(pg_catalog.>) 0
            AND pg_catalog.octet_length(task) OPERATOR(pg_catalog.<=) 200
            AND pg_catalog.strpos(task, '@') OPERATOR(pg_catalog.=) 0),
    owner ia3.role NOT NULL,
    backbone pg_catalog.text NOT NULL,
    template pg_catalog.text[] NOT NULL,
    choices pg_catalog.text[],
    active_version pg_catalog.int4,
    next_version pg_catalog.int4 NOT NULL DEFAULT 1,
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    comment pg_catalog.text,
    readers ia3.role[] NOT NULL DEFAULT '{}',
    min_probability pg_catalog.float8
        CONSTRAINT task_min_probability CHECK (min_probability OPERATOR(pg_catalog.>=) 0
            AND min_probability OPERATOR(pg_catalog.<=) 1),
    verbalizers pg_catalog.jsonb
        CONSTRAINT task_verbalizers CHECK (pg_catalog.jsonb_typeof(verbalizers) OPERATOR(pg_catalog.=) 'object'),
    descriptions pg_catalog.jsonb
        CONSTRAINT task_descriptions CHECK (pg_catalog.jsonb_typeof(descriptions) OPERATOR(pg_catalog.=) 'object'),
    multi_label pg_catalog.bool NOT NULL DEFAULT false
);
COMMENT ON TABLE ia3.task IS 'few-shot tasks: who owns them, and how their active version is prompted';
COMMENT ON COLUMN ia3.task.task IS 'name of the task: at most 200 bytes, without @';
COMMENT ON COLUMN ia3.task.owner IS 'role that owns the task';
COMMENT ON COLUMN ia3.task.backbone IS 'backbone that the active version runs on; see the setting ia3.backbones';
COMMENT ON COLUMN ia3.task.template IS
    'prompt templates of the active version, with {field}, {choices}, {descriptions}, and {{ and }} for braces';
COMMENT ON COLUMN ia3.task.choices IS
    'candidate answers of the active version; NULL when every call brings its own';
COMMENT ON COLUMN ia3.task.active_version IS
    'version that calls without @version use; NULL while there is none';
COMMENT ON COLUMN ia3.task.next_version IS 'number that the next version will get';
COMMENT ON COLUMN ia3.task.created_at IS 'when the task was created';
COMMENT ON COLUMN ia3.task.comment IS 'free text for the owner''s use';
COMMENT ON COLUMN ia3.task.readers IS
    'roles besides the owner that may read the task, - for everybody; see ia3_grant';
COMMENT ON COLUMN ia3.task.min_probability IS
    'below this probability ia3_predict returns NULL, unless the call has a min_probability of its own; NULL: never';
COMMENT ON COLUMN ia3.task.verbalizers IS
    'what is scored in place of a label: {"label": "text"} or {"label": ["text", ...]}; NULL: the labels themselves';
COMMENT ON COLUMN ia3.task.descriptions IS
    'what {descriptions} in a template says of a label: {"label": "text"}; NULL: nothing';
COMMENT ON COLUMN ia3.task.multi_label IS
    'whether any number of the choices are right for an input: the active version was trained on arrays of labels';

-- Trained vectors, one row per version. Rows never change, except that a task may be renamed. The database itself computes the digest under which
-- engines cache the vectors, so nobody can pass one adapter off as another.
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
    method pg_catalog.text NOT NULL
        GENERATED ALWAYS AS (COALESCE(recipe OPERATOR(pg_catalog.->>) 'method', 'ia3')) STORED,
    metrics pg_catalog.jsonb,
    created_by pg_catalog.name NOT NULL,
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    temperature pg_catalog.float8
        CONSTRAINT adapter_temperature CHECK (temperature OPERATOR(pg_catalog.>=) 0.05
            AND temperature OPERATOR(pg_catalog.<=) 20),
    thresholds pg_catalog.jsonb
        CONSTRAINT adapter_thresholds CHECK (pg_catalog.jsonb_typeof(thresholds) OPERATOR(pg_catalog.=) 'object'),
    PRIMARY KEY (task, version)
);
-- Trained numbers do not compress, so PostgreSQL need not try.
ALTER TABLE ia3.adapter ALTER COLUMN vectors SET STORAGE EXTERNAL;
COMMENT ON TABLE ia3.adapter IS 'versions of tasks: their trained vectors and how they came about; immutable';
COMMENT ON COLUMN ia3.adapter.task IS 'task that the version belongs to';
COMMENT ON COLUMN ia3.adapter.version IS 'number of the version within its task, from 1';
COMMENT ON COLUMN ia3.adapter.vectors IS 'the trained vectors as a PEFT adapter_model.safetensors in float32';
COMMENT ON COLUMN ia3.adapter.digest IS 'SHA-256 of the vectors';
COMMENT ON COLUMN ia3.adapter.backbone_digest IS 'SHA-256 of the backbone that the vectors were trained on';
COMMENT ON COLUMN ia3.adapter.parent_version IS
    'version of the same task that training started from; NULL if it started elsewhere';
COMMENT ON COLUMN ia3.adapter.examples IS 'number of training examples; NULL for an imported version';
COMMENT ON COLUMN ia3.adapter.recipe IS 'settings of the training run, its seed included, but not its query';
COMMENT ON COLUMN ia3.adapter.method IS 'method of fine-tuning: what was trained';
COMMENT ON COLUMN ia3.adapter.metrics IS 'losses and timing of the training run; NULL for an imported version';
COMMENT ON COLUMN ia3.adapter.created_by IS 'role that trained or imported the version';
COMMENT ON COLUMN ia3.adapter.created_at IS 'when the version was stored';
COMMENT ON COLUMN ia3.adapter.temperature IS
    'what scores are divided by before they become probabilities; NULL, which means 1, if the version is not calibrated';
COMMENT ON COLUMN ia3.adapter.thresholds IS
    'the probability from which on a label of a multi-label version is right: {"label": 0.4}; NULL: 0.5 for all';

-- All versions that there have ever been. A number is never given to another version of the same name, because indexes may have
-- predictions of the first one (ia3_predict_version). Rows stay when tasks and versions are dropped or renamed. The foreign key
-- makes pg_dump load this table before ia3.adapter, whose trigger compares.
CREATE TABLE ia3.given_version (
    task pg_catalog.text NOT NULL,
    version pg_catalog.int4 NOT NULL CHECK (version OPERATOR(pg_catalog.>) 0),
    fingerprint pg_catalog.bytea NOT NULL CHECK (pg_catalog.octet_length(fingerprint) OPERATOR(pg_catalog.=) 32),
    PRIMARY KEY (task, version)
);
COMMENT ON TABLE ia3.given_version IS 'all versions that there have ever been, so that no number is given twice';
COMMENT ON COLUMN ia3.given_version.task IS 'name that the task had';
COMMENT ON COLUMN ia3.given_version.version IS 'number of the version within the task';
COMMENT ON COLUMN ia3.given_version.fingerprint IS
    'SHA-256 of vectors, backbone, recipe and temperature, by which a version is recognized that comes back';
ALTER TABLE ia3.adapter ADD CONSTRAINT adapter_given FOREIGN KEY (task, version)
    REFERENCES ia3.given_version (task, version);

-- The queries that versions were trained with. They contain literals, table names and conditions that are none of a
-- reader's business. The foreign key is deferred because a trigger inserts the query of an old dump before its version.
CREATE TABLE ia3.adapter_query (
    task pg_catalog.text NOT NULL,
    version pg_catalog.int4 NOT NULL,
    query pg_catalog.text NOT NULL,
    row_hashes pg_catalog.bytea,
    PRIMARY KEY (task, version),
    FOREIGN KEY (task, version) REFERENCES ia3.adapter (task, version)
        ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON TABLE ia3.adapter_query IS 'queries that versions were trained with, for the owners of the tasks';
COMMENT ON COLUMN ia3.adapter_query.task IS 'task that the version belongs to';
COMMENT ON COLUMN ia3.adapter_query.version IS 'number of the version within its task';
COMMENT ON COLUMN ia3.adapter_query.query IS 'query whose rows were the training examples';
COMMENT ON COLUMN ia3.adapter_query.row_hashes IS
    'the first 8 bytes of the SHA-256 of each of these rows, sorted, by which ia3_compare recognizes them';

-- What calibrated versions are calibrated with: how versions that had not seen a row scored its choices. Whoever sees these
-- scores learns about the labelled rows, so they are the owner's business.
CREATE TABLE ia3.adapter_scores (
    task pg_catalog.text NOT NULL,
    version pg_catalog.int4 NOT NULL,
    row_number pg_catalog.int8 NOT NULL CHECK (row_number OPERATOR(pg_catalog.>) 0),
    fold pg_catalog.int4 NOT NULL CHECK (fold OPERATOR(pg_catalog.>) 0 AND fold OPERATOR(pg_catalog.<=) 100),
    label pg_catalog.int4 NOT NULL,
    scores pg_catalog.float8[] NOT NULL,
    PRIMARY KEY (task, version, row_number),
    FOREIGN KEY (task, version) REFERENCES ia3.adapter (task, version) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT adapter_scores_label CHECK (label OPERATOR(pg_catalog.>=) 1
        AND label OPERATOR(pg_catalog.<=) pg_catalog.cardinality(scores)),
    CONSTRAINT adapter_scores_finite CHECK (pg_catalog.array_ndims(scores) OPERATOR(pg_catalog.=) 1
        AND pg_catalog.array_position(scores, NULL) IS NULL
        AND NOT scores OPERATOR(pg_catalog.&&) '{NaN,Infinity,-Infinity}')
);
COMMENT ON TABLE ia3.adapter_scores IS
    'the scores that calibrated versions are calibrated with, for the owners of the tasks';
COMMENT ON COLUMN ia3.adapter_scores.task IS 'task that the version belongs to';
COMMENT ON COLUMN ia3.adapter_scores.version IS 'number of the version within its task';
COMMENT ON COLUMN ia3.adapter_scores.row_number IS 'number of the row in the result of the query, from 1';
COMMENT ON COLUMN ia3.adapter_scores.fold IS 'fold that the row belongs to, from 1; the run that scored it has seen the others';
COMMENT ON COLUMN ia3.adapter_scores.label IS 'position of the row''s label among its choices, from 1';
COMMENT ON COLUMN ia3.adapter_scores.scores IS 'scores of its choices, in their order: of the task, or of the row if it has its own';

-- State of unfinished pre-training runs, from which they can be resumed. A task has at most one; it is deleted when
-- the run completes.
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
COMMENT ON TABLE ia3.checkpoint IS
    'state of pre-training runs that are in progress or were interrupted; ia3_pretrain resumes from it';
COMMENT ON COLUMN ia3.checkpoint.task IS 'task that is being pre-trained';
COMMENT ON COLUMN ia3.checkpoint.step IS 'steps completed';
COMMENT ON COLUMN ia3.checkpoint.recipe IS 'settings of the run, which a resuming call has to repeat';
COMMENT ON COLUMN ia3.checkpoint.backbone_digest IS 'SHA-256 of the backbone that is being trained on';
COMMENT ON COLUMN ia3.checkpoint.state IS 'vectors and state of the optimizer';
COMMENT ON COLUMN ia3.checkpoint.losses IS 'losses so far';
COMMENT ON COLUMN ia3.checkpoint.seconds IS 'training time so far, in seconds';
COMMENT ON COLUMN ia3.checkpoint.created_by IS 'role that saved the checkpoint';
COMMENT ON COLUMN ia3.checkpoint.saved_at IS 'when the checkpoint was saved';

CREATE FUNCTION ia3.adapter_is_immutable() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_adapter_is_immutable' LANGUAGE C;
COMMENT ON FUNCTION ia3.adapter_is_immutable IS
    'trigger function that rejects updates of ia3.adapter, except for the name of the task';
CREATE TRIGGER adapter_is_immutable BEFORE UPDATE ON ia3.adapter
    FOR EACH ROW EXECUTE FUNCTION ia3.adapter_is_immutable();

CREATE FUNCTION ia3.adapter_never_twice() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_adapter_never_twice' LANGUAGE C;
COMMENT ON FUNCTION ia3.adapter_never_twice IS
    'trigger function that rejects another version under a number that has been given';
-- It fires after adapter_move_query, which changes the recipe: triggers fire in the order of their names.
CREATE TRIGGER adapter_never_twice BEFORE INSERT OR UPDATE OF task, version ON ia3.adapter
    FOR EACH ROW EXECUTE FUNCTION ia3.adapter_never_twice();

-- In dumps from before the release the query is part of the recipe. The trigger moves it on subscribers, too.
CREATE FUNCTION ia3.adapter_move_query() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_adapter_move_query' LANGUAGE C;
COMMENT ON FUNCTION ia3.adapter_move_query IS
    'trigger function that moves the query from the recipe to ia3.adapter_query';
CREATE TRIGGER adapter_move_query BEFORE INSERT ON ia3.adapter
    FOR EACH ROW EXECUTE FUNCTION ia3.adapter_move_query();
ALTER TABLE ia3.adapter ENABLE ALWAYS TRIGGER adapter_move_query;

CREATE FUNCTION ia3.task_roles_exist() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_task_roles_exist' LANGUAGE C;
COMMENT ON FUNCTION ia3.task_roles_exist IS
    'trigger function that rejects updates of ia3.task with roles that do not exist';
CREATE TRIGGER task_roles_exist BEFORE UPDATE OF owner, readers ON ia3.task
    FOR EACH ROW EXECUTE FUNCTION ia3.task_roles_exist();

SELECT pg_catalog.pg_extension_config_dump('ia3.task', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.given_version', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.adapter', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.adapter_query', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.adapter_scores', '');
SELECT pg_catalog.pg_extension_config_dump('ia3.checkpoint', '');

--
-- Row security. The functions run with the privileges of their caller, so these policies decide what a call may do.
-- A task belongs to its owner and to the roles that have the owner's privileges; readers see it but cannot change
-- it. An adapter is visible where its task is: the subquery obeys the policies of ia3.task.
--
CREATE FUNCTION ia3.task_readable(owner ia3.role, readers ia3.role[])
    RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_task_readable' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.task_readable(owner ia3.role, readers ia3.role[], role pg_catalog.oid)
    RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_task_readable' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ia3.task_readable(ia3.role, ia3.role[]) IS
    'whether the current role has the privileges of the owner or of a reader';
COMMENT ON FUNCTION ia3.task_readable(ia3.role, ia3.role[], pg_catalog.oid) IS
    'whether a role has the privileges of the owner or of a reader';
CREATE FUNCTION ia3.task_owned(owner ia3.role) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_task_owned' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ia3.task_owned(owner ia3.role, role pg_catalog.oid) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME', 'ia3_task_owned' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ia3.task_owned(ia3.role) IS 'whether the current role has the privileges of the owner';
COMMENT ON FUNCTION ia3.task_owned(ia3.role, pg_catalog.oid) IS 'whether a role has the privileges of the owner';

ALTER TABLE ia3.task ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.given_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.adapter ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.adapter_query ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.adapter_scores ENABLE ROW LEVEL SECURITY;
ALTER TABLE ia3.checkpoint ENABLE ROW LEVEL SECURITY;

CREATE POLICY task_read ON ia3.task FOR SELECT USING (ia3.task_readable(owner, readers));
CREATE POLICY task_insert ON ia3.task FOR INSERT
    WITH CHECK (ia3.task_owned(owner));
CREATE POLICY task_update ON ia3.task FOR UPDATE
    USING (ia3.task_owned(owner));
CREATE POLICY task_delete ON ia3.task FOR DELETE
    USING (ia3.task_owned(owner));

CREATE POLICY given_version_read ON ia3.given_version FOR SELECT
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) given_version.task));

CREATE POLICY adapter_read ON ia3.adapter FOR SELECT
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task));
CREATE POLICY adapter_insert ON ia3.adapter FOR INSERT
    WITH CHECK (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task
        AND ia3.task_owned(t.owner)));
CREATE POLICY adapter_delete ON ia3.adapter FOR DELETE
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter.task
        AND ia3.task_owned(t.owner)));

CREATE POLICY adapter_query_all ON ia3.adapter_query
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter_query.task
        AND ia3.task_owned(t.owner)));

CREATE POLICY adapter_scores_all ON ia3.adapter_scores
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) adapter_scores.task
        AND ia3.task_owned(t.owner)));

CREATE POLICY checkpoint_all ON ia3.checkpoint
    USING (EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) checkpoint.task
        AND ia3.task_owned(t.owner)));

-- There is no INSERT: only functions insert, as the owner of the tables, so whoever may execute them decides what
-- becomes an adapter. Nor may a task be renamed by an update: ia3_rename answers for names that are taken like training.
GRANT SELECT ON ia3.task TO PUBLIC;
GRANT UPDATE (owner, backbone, template, choices, active_version, comment, readers, min_probability,
    verbalizers, descriptions, multi_label) ON ia3.task TO PUBLIC;
GRANT SELECT ON ia3.given_version TO PUBLIC;
GRANT SELECT ON ia3.adapter TO PUBLIC;
GRANT SELECT ON ia3.adapter_query TO PUBLIC;
GRANT SELECT ON ia3.adapter_scores TO PUBLIC;
GRANT SELECT ON ia3.checkpoint TO PUBLIC;

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
    steps pg_catalog.int4 DEFAULT NULL,
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
    method pg_catalog.text DEFAULT 'ia3',
    truncate pg_catalog.text DEFAULT 'longest',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    optimizer pg_catalog.text DEFAULT 'adafactor',
    weight_decay pg_catalog.float8 DEFAULT 0,
    ema pg_catalog.float8 DEFAULT 0,
    balanced pg_catalog.bool DEFAULT false,
    class_weights pg_catalog.jsonb DEFAULT NULL,
    weight_column pg_catalog.text DEFAULT NULL,
    calibrate pg_catalog.bool DEFAULT false,
    early_stopping pg_catalog.text DEFAULT 'none',
    verbalizers pg_catalog.jsonb DEFAULT NULL,
    descriptions pg_catalog.jsonb DEFAULT NULL
) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_train IS
    'trains a new version of a task on the rows of a query and returns its number';
-- Training keeps a processor busy for minutes, so it needs a grant. Prediction is open to everybody.
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_train FROM PUBLIC;

-- The same as a procedure, which commits before the engine trains and then holds neither a lock nor a snapshot.
CREATE PROCEDURE @extschema@.ia3_train_task(
    task pg_catalog.text,
    query pg_catalog.text,
    template pg_catalog.text[] DEFAULT NULL,
    choices pg_catalog.text[] DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT NULL,
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
    method pg_catalog.text DEFAULT 'ia3',
    truncate pg_catalog.text DEFAULT 'longest',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    optimizer pg_catalog.text DEFAULT 'adafactor',
    weight_decay pg_catalog.float8 DEFAULT 0,
    ema pg_catalog.float8 DEFAULT 0,
    balanced pg_catalog.bool DEFAULT false,
    class_weights pg_catalog.jsonb DEFAULT NULL,
    weight_column pg_catalog.text DEFAULT NULL,
    calibrate pg_catalog.bool DEFAULT false,
    early_stopping pg_catalog.text DEFAULT 'none',
    verbalizers pg_catalog.jsonb DEFAULT NULL,
    descriptions pg_catalog.jsonb DEFAULT NULL,
    INOUT version pg_catalog.int4 DEFAULT NULL
)
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.ia3_train_task IS
    'trains a new version of a task on the rows of a query, in transactions of its own';
REVOKE EXECUTE ON PROCEDURE @extschema@.ia3_train_task FROM PUBLIC;

CREATE FUNCTION @extschema@.ia3_calibrate(task pg_catalog.text, query pg_catalog.text) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_calibrate IS
    'stores a version with the same vectors, calibrated by training runs on the rows of a query, and returns its number';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_calibrate FROM PUBLIC;

-- This is a procedure because it commits before the engine trains, and after every checkpoint.
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
    resume pg_catalog.bool DEFAULT true,
    truncate pg_catalog.text DEFAULT 'longest'
)
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.ia3_pretrain IS
    'trains one adapter on the examples of many tasks, as a starting point for others';
REVOKE EXECUTE ON PROCEDURE @extschema@.ia3_pretrain FROM PUBLIC;

--
-- Filling a column of a table with predictions. A procedure, because it commits on the way.
--
CREATE PROCEDURE @extschema@.ia3_label(
    relation pg_catalog.regclass,
    task pg_catalog.text,
    input pg_catalog.text,
    label_column pg_catalog.text,
    version_column pg_catalog.text DEFAULT NULL,
    probability_column pg_catalog.text DEFAULT NULL,
    condition pg_catalog.text DEFAULT NULL,
    commit_rows pg_catalog.int4 DEFAULT 10000,
    relabel pg_catalog.bool DEFAULT false,
    INOUT labelled pg_catalog.int8 DEFAULT NULL
)
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.ia3_label IS
    'predicts the rows of a table that have no label yet, and stores the labels';

-- Keeping a column filled. The triggers run expressions as the owner of the table, so PUBLIC may not create them.
CREATE FUNCTION ia3.watch_changes() RETURNS pg_catalog.trigger
    AS 'MODULE_PATHNAME', 'ia3_watch_changes' LANGUAGE C;
COMMENT ON FUNCTION ia3.watch_changes IS 'trigger function that labels the rows of a watched table';
REVOKE EXECUTE ON FUNCTION ia3.watch_changes FROM PUBLIC;
CREATE FUNCTION @extschema@.ia3_watch(
    relation pg_catalog.regclass,
    task pg_catalog.text,
    input pg_catalog.text,
    label_column pg_catalog.text,
    version_column pg_catalog.text DEFAULT NULL,
    probability_column pg_catalog.text DEFAULT NULL,
    condition pg_catalog.text DEFAULT NULL,
    mode pg_catalog.text DEFAULT 'direct'
)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.ia3_watch IS
    'creates triggers that label the rows of a table when they are inserted or their input changes';
CREATE FUNCTION @extschema@.ia3_unwatch(
    relation pg_catalog.regclass,
    label_column pg_catalog.text DEFAULT NULL
)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.ia3_unwatch IS 'drops the triggers of ia3_watch, of one column or of all';

-- Rows that watches of mode 'deferred' will label. Statements that change watched rows only add entries, and the workers delete
-- them: so it is vacuumed early, for its size and not for the part of it that has changed, and is never worth analyzing. Its
-- statements find what they need through the primary key, in the order in which the entries came. Not dumped: it holds OIDs.
CREATE TABLE ia3.watch_entry (
    relation pg_catalog.oid NOT NULL,
    label_column pg_catalog.text NOT NULL,
    entry pg_catalog.int8 NOT NULL GENERATED ALWAYS AS IDENTITY,
    key pg_catalog.text[] NOT NULL,
    label pg_catalog.text,
    queued_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    due pg_catalog.timestamptz NOT NULL DEFAULT '-infinity',
    attempts pg_catalog.int4 NOT NULL DEFAULT 0,
    error pg_catalog.text,
    PRIMARY KEY (relation, label_column, entry)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000000);
-- Of the entries that are set aside there are few, and they are looked for after every batch.
CREATE INDEX watch_entry_set_aside ON ia3.watch_entry (relation, label_column)
    WHERE due OPERATOR(pg_catalog.=) 'infinity';
COMMENT ON TABLE ia3.watch_entry IS 'rows that wait for the watches of mode deferred; see ia3.watch_queue';
COMMENT ON COLUMN ia3.watch_entry.relation IS 'OID of the watched table';
COMMENT ON COLUMN ia3.watch_entry.label_column IS 'column that the watch fills';
COMMENT ON COLUMN ia3.watch_entry.entry IS 'grows with every entry';
COMMENT ON COLUMN ia3.watch_entry.key IS 'values of the columns of the table''s key';
COMMENT ON COLUMN ia3.watch_entry.label IS 'label that the row had: another one has been set since by somebody else, and is kept';
COMMENT ON COLUMN ia3.watch_entry.queued_at IS 'when the transaction began that changed the row';
COMMENT ON COLUMN ia3.watch_entry.due IS 'not tried before; infinity: not tried again, unless ia3_watch_retry is called';
COMMENT ON COLUMN ia3.watch_entry.attempts IS 'how often it has failed';
COMMENT ON COLUMN ia3.watch_entry.error IS 'why it has failed last';

-- Watches that cannot work at all at present: without an engine, or without their task.
CREATE TABLE ia3.watch_failure (
    relation pg_catalog.oid NOT NULL,
    label_column pg_catalog.text NOT NULL,
    attempts pg_catalog.int4 NOT NULL,
    due pg_catalog.timestamptz NOT NULL,
    error pg_catalog.text NOT NULL,
    PRIMARY KEY (relation, label_column)
) WITH (fillfactor = 50);
COMMENT ON TABLE ia3.watch_failure IS 'watches of mode deferred that cannot label any row at present; see ia3.watch_queue';
COMMENT ON COLUMN ia3.watch_failure.relation IS 'OID of the watched table';
COMMENT ON COLUMN ia3.watch_failure.label_column IS 'column that the watch fills';
COMMENT ON COLUMN ia3.watch_failure.attempts IS 'how often it has failed, one after the other';
COMMENT ON COLUMN ia3.watch_failure.due IS 'not tried before';
COMMENT ON COLUMN ia3.watch_failure.error IS 'why it has failed last';

CREATE VIEW ia3.watch_queue WITH (security_barrier) AS
    SELECT c.oid::pg_catalog.regclass AS relation, q.label_column, q.waiting, q.set_aside, q.oldest,
           COALESCE(f.attempts, q.attempts) AS attempts,
           GREATEST(f.due, NULLIF(q.due, '-infinity')) AS next_attempt,
           COALESCE(f.error, q.error) AS last_error
      FROM (SELECT e.relation, e.label_column,
                   pg_catalog.count(*) FILTER (WHERE e.due OPERATOR(pg_catalog.<) 'infinity') AS waiting,
                   pg_catalog.count(*) FILTER (WHERE e.due OPERATOR(pg_catalog.=) 'infinity') AS set_aside,
                   pg_catalog.min(e.queued_at) AS oldest, pg_catalog.max(e.attempts) AS attempts,
                   pg_catalog.min(e.due) FILTER (WHERE e.due OPERATOR(pg_catalog.<) 'infinity') AS due,
                   (pg_catalog.array_agg(e.error ORDER BY e.entry DESC) FILTER (WHERE e.error IS NOT NULL))[1] AS error
              FROM ia3.watch_entry e GROUP BY e.relation, e.label_column) q
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) q.relation
      LEFT JOIN ia3.watch_failure f ON f.relation OPERATOR(pg_catalog.=) q.relation
           AND f.label_column OPERATOR(pg_catalog.=) q.label_column
     WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW ia3.watch_queue IS 'what waits for the watches of mode deferred, for the owners of the tables';
COMMENT ON COLUMN ia3.watch_queue.relation IS 'watched table';
COMMENT ON COLUMN ia3.watch_queue.label_column IS 'column that the watch fills';
COMMENT ON COLUMN ia3.watch_queue.waiting IS 'entries that wait; a row has one for every statement that changed it';
COMMENT ON COLUMN ia3.watch_queue.set_aside IS 'entries that have failed too often; ia3_watch_retry lets them be tried again';
COMMENT ON COLUMN ia3.watch_queue.oldest IS 'when the oldest entry was made';
COMMENT ON COLUMN ia3.watch_queue.attempts IS 'how often the watch, or else one of the rows, has failed; 0: never';
COMMENT ON COLUMN ia3.watch_queue.next_attempt IS 'when the next entry is tried, if none is due now';
COMMENT ON COLUMN ia3.watch_queue.last_error IS 'why the watch, or else a row, has failed last';
CREATE VIEW ia3.watch_failed_rows WITH (security_barrier) AS
    SELECT c.oid::pg_catalog.regclass AS relation, e.label_column, e.key, e.queued_at, e.attempts,
           e.due OPERATOR(pg_catalog.=) 'infinity' AS set_aside, NULLIF(e.due, 'infinity') AS next_attempt, e.error
      FROM ia3.watch_entry e JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.relation
     WHERE e.attempts OPERATOR(pg_catalog.>) 0 AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW ia3.watch_failed_rows IS 'rows that the watches of mode deferred could not label, for the owners of the tables';
COMMENT ON COLUMN ia3.watch_failed_rows.relation IS 'watched table';
COMMENT ON COLUMN ia3.watch_failed_rows.label_column IS 'column that the watch fills';
COMMENT ON COLUMN ia3.watch_failed_rows.key IS 'values of the columns of the table''s key';
COMMENT ON COLUMN ia3.watch_failed_rows.queued_at IS 'when the transaction began that changed the row';
COMMENT ON COLUMN ia3.watch_failed_rows.attempts IS 'how often it has failed';
COMMENT ON COLUMN ia3.watch_failed_rows.set_aside IS 'whether it is not tried again, unless ia3_watch_retry is called';
COMMENT ON COLUMN ia3.watch_failed_rows.next_attempt IS 'when it is tried again';
COMMENT ON COLUMN ia3.watch_failed_rows.error IS 'why it has failed last';
GRANT SELECT ON ia3.watch_queue, ia3.watch_failed_rows TO PUBLIC;

CREATE FUNCTION @extschema@.ia3_watch_retry(
    relation pg_catalog.regclass,
    label_column pg_catalog.text DEFAULT NULL
)
    RETURNS pg_catalog.int8
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.ia3_watch_retry IS
    'lets rows that a watch could not label be tried again at once; returns how many';

--
-- Cross-validation: training runs that each leave out some of the rows and predict them. Nothing is stored. The options
-- from template on are those of ia3_train, in its order; like training, these functions need a grant.
--
CREATE FUNCTION @extschema@.ia3_cross_predict(
    query pg_catalog.text,
    folds pg_catalog.int4 DEFAULT 5,
    repeats pg_catalog.int4 DEFAULT 1,
    group_column pg_catalog.text DEFAULT NULL,
    id_column pg_catalog.text DEFAULT NULL,
    template pg_catalog.text[] DEFAULT NULL,
    choices pg_catalog.text[] DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT NULL,
    batch_size pg_catalog.int4 DEFAULT 8,
    learning_rate pg_catalog.float8 DEFAULT NULL,
    warmup_ratio pg_catalog.float8 DEFAULT 0.06,
    lm_weight pg_catalog.float8 DEFAULT 1,
    unlikelihood_weight pg_catalog.float8 DEFAULT 1,
    length_norm_weight pg_catalog.float8 DEFAULT 1,
    dropout pg_catalog.float8 DEFAULT NULL,
    seed pg_catalog.int8 DEFAULT NULL,
    loss_averaging pg_catalog.text DEFAULT 'batch',
    method pg_catalog.text DEFAULT 'ia3',
    truncate pg_catalog.text DEFAULT 'longest',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    optimizer pg_catalog.text DEFAULT 'adafactor',
    weight_decay pg_catalog.float8 DEFAULT 0,
    ema pg_catalog.float8 DEFAULT 0,
    balanced pg_catalog.bool DEFAULT false,
    class_weights pg_catalog.jsonb DEFAULT NULL,
    weight_column pg_catalog.text DEFAULT NULL,
    early_stopping pg_catalog.text DEFAULT 'none',
    verbalizers pg_catalog.jsonb DEFAULT NULL,
    descriptions pg_catalog.jsonb DEFAULT NULL,
    OUT row_number pg_catalog.int8,
    OUT row_id pg_catalog.text,
    OUT label pg_catalog.text,
    OUT predicted pg_catalog.text,
    OUT probability pg_catalog.float8,
    OUT probabilities pg_catalog.jsonb,
    OUT fold pg_catalog.int4,
    OUT repeat pg_catalog.int4)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 100;
COMMENT ON FUNCTION @extschema@.ia3_cross_predict IS
    'predicts every row of a query with an adapter that was trained on other rows';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_cross_predict FROM PUBLIC;

CREATE FUNCTION @extschema@.ia3_cross_validate(
    query pg_catalog.text,
    folds pg_catalog.int4 DEFAULT 5,
    repeats pg_catalog.int4 DEFAULT 1,
    group_column pg_catalog.text DEFAULT NULL,
    id_column pg_catalog.text DEFAULT NULL,
    template pg_catalog.text[] DEFAULT NULL,
    choices pg_catalog.text[] DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT NULL,
    batch_size pg_catalog.int4 DEFAULT 8,
    learning_rate pg_catalog.float8 DEFAULT NULL,
    warmup_ratio pg_catalog.float8 DEFAULT 0.06,
    lm_weight pg_catalog.float8 DEFAULT 1,
    unlikelihood_weight pg_catalog.float8 DEFAULT 1,
    length_norm_weight pg_catalog.float8 DEFAULT 1,
    dropout pg_catalog.float8 DEFAULT NULL,
    seed pg_catalog.int8 DEFAULT NULL,
    loss_averaging pg_catalog.text DEFAULT 'batch',
    method pg_catalog.text DEFAULT 'ia3',
    truncate pg_catalog.text DEFAULT 'longest',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    optimizer pg_catalog.text DEFAULT 'adafactor',
    weight_decay pg_catalog.float8 DEFAULT 0,
    ema pg_catalog.float8 DEFAULT 0,
    balanced pg_catalog.bool DEFAULT false,
    class_weights pg_catalog.jsonb DEFAULT NULL,
    weight_column pg_catalog.text DEFAULT NULL,
    early_stopping pg_catalog.text DEFAULT 'none',
    verbalizers pg_catalog.jsonb DEFAULT NULL,
    descriptions pg_catalog.jsonb DEFAULT NULL,
    OUT repeat pg_catalog.int4,
    OUT n pg_catalog.int8,
    OUT accuracy pg_catalog.float8,
    OUT accuracy_low pg_catalog.float8,
    OUT accuracy_high pg_catalog.float8,
    OUT macro_f1 pg_catalog.float8,
    OUT macro_f1_low pg_catalog.float8,
    OUT macro_f1_high pg_catalog.float8,
    OUT log_loss pg_catalog.float8,
    OUT brier pg_catalog.float8,
    OUT calibration_error pg_catalog.float8,
    OUT majority_accuracy pg_catalog.float8,
    OUT linear_accuracy pg_catalog.float8,
    OUT linear_macro_f1 pg_catalog.float8,
    OUT seconds pg_catalog.float8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 2;
COMMENT ON FUNCTION @extschema@.ia3_cross_validate IS
    'measures how good a task would be that is trained on the rows of a query, by cross-validation';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_cross_validate FROM PUBLIC;

CREATE FUNCTION @extschema@.ia3_learning_curve(
    query pg_catalog.text,
    sizes pg_catalog.int4[] DEFAULT '{10,20,40}',
    folds pg_catalog.int4 DEFAULT 5,
    repeats pg_catalog.int4 DEFAULT 1,
    group_column pg_catalog.text DEFAULT NULL,
    template pg_catalog.text[] DEFAULT NULL,
    choices pg_catalog.text[] DEFAULT NULL,
    backbone pg_catalog.text DEFAULT NULL,
    init pg_catalog.text DEFAULT NULL,
    steps pg_catalog.int4 DEFAULT NULL,
    batch_size pg_catalog.int4 DEFAULT 8,
    learning_rate pg_catalog.float8 DEFAULT NULL,
    warmup_ratio pg_catalog.float8 DEFAULT 0.06,
    lm_weight pg_catalog.float8 DEFAULT 1,
    unlikelihood_weight pg_catalog.float8 DEFAULT 1,
    length_norm_weight pg_catalog.float8 DEFAULT 1,
    dropout pg_catalog.float8 DEFAULT NULL,
    seed pg_catalog.int8 DEFAULT NULL,
    loss_averaging pg_catalog.text DEFAULT 'batch',
    method pg_catalog.text DEFAULT 'ia3',
    truncate pg_catalog.text DEFAULT 'longest',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    optimizer pg_catalog.text DEFAULT 'adafactor',
    weight_decay pg_catalog.float8 DEFAULT 0,
    ema pg_catalog.float8 DEFAULT 0,
    balanced pg_catalog.bool DEFAULT false,
    class_weights pg_catalog.jsonb DEFAULT NULL,
    weight_column pg_catalog.text DEFAULT NULL,
    early_stopping pg_catalog.text DEFAULT 'none',
    verbalizers pg_catalog.jsonb DEFAULT NULL,
    descriptions pg_catalog.jsonb DEFAULT NULL,
    OUT size pg_catalog.int4,
    OUT runs pg_catalog.int4,
    OUT n pg_catalog.int8,
    OUT accuracy pg_catalog.float8,
    OUT accuracy_low pg_catalog.float8,
    OUT accuracy_high pg_catalog.float8,
    OUT macro_f1 pg_catalog.float8,
    OUT macro_f1_low pg_catalog.float8,
    OUT macro_f1_high pg_catalog.float8,
    OUT log_loss pg_catalog.float8,
    OUT brier pg_catalog.float8,
    OUT linear_accuracy pg_catalog.float8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 3;
COMMENT ON FUNCTION @extschema@.ia3_learning_curve IS
    'how good a task would be if it were trained on fewer of the rows of a query';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_learning_curve FROM PUBLIC;
CREATE FUNCTION @extschema@.ia3_plot_learning_curve(curve pg_catalog.jsonb) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_plot_learning_curve IS
    'the rows that ia3_learning_curve has returned, as a JSON array, as an SVG picture';

--
-- Classification. There is one overload per number of arguments, so that all can be STRICT: a NULL argument gives no
-- rows.
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
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.text) IS
    'ranks the choices of a task for a text by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'ranks the given choices for a text by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.jsonb) IS
    'ranks the choices of a task for the fields of its template by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'ranks the given choices for the fields of a task''s template by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.text[]) IS
    'ranks the given choices for a prompt by their likelihood, with the bare backbone';

CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, fields pg_catalog.json,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task pg_catalog.text, fields pg_catalog.json, choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.json) IS
    'ranks the choices of a task for the fields of its template as json, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'ranks the given choices for the fields of a task''s template as json, by their likelihood';

-- The same under names that have one meaning each. Drivers send parameters without a type, and PostgreSQL then chooses
-- the overload with text, so the functions above never take such a parameter for fields or choices. Here text is JSON.
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.json,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.text,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[],
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.jsonb) IS
    'ranks the choices of a task for the fields of its template, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'ranks the given choices for the fields of a task''s template, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.json) IS
    'ranks the choices of a task for the fields of its template as json, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'ranks the given choices for the fields of a task''s template as json, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.text) IS
    'ranks the choices of a task for the fields of its template, written as JSON, by their likelihood';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'ranks the given choices for the fields of a task''s template, written as JSON, by their likelihood';
-- Descriptions and verbalizers may be NULL, so these are not STRICT. ia3_classify and ia3_predict have no such form: with it, calls
-- whose arguments have no types, as some drivers send them, would be ambiguous.
CREATE FUNCTION @extschema@.ia3_classify_zero_shot(input pg_catalog.text, choices pg_catalog.text[],
    descriptions pg_catalog.jsonb DEFAULT NULL, verbalizers pg_catalog.jsonb DEFAULT NULL,
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_zero_shot_worded' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_classify_zero_shot IS
    'ranks the given choices for a prompt by their likelihood, with the bare backbone';

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

COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.text) IS
    'the most likely choice of a task for a text';
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'the most likely of the given choices for a text';
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.jsonb) IS
    'the most likely choice of a task for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a task''s template';
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.text[]) IS
    'the most likely of the given choices for a prompt, with the bare backbone';

CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, fields pg_catalog.json) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task pg_catalog.text, fields pg_catalog.json, choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.json) IS
    'the most likely choice of a task for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a task''s template as json';

CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.jsonb)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.json)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.text)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.jsonb) IS
    'the most likely choice of a task for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a task''s template';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.json) IS
    'the most likely choice of a task for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a task''s template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.text) IS
    'the most likely choice of a task for the fields of its template, written as JSON';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a task''s template, written as JSON';
CREATE FUNCTION @extschema@.ia3_predict_zero_shot(input pg_catalog.text, choices pg_catalog.text[],
    descriptions pg_catalog.jsonb DEFAULT NULL, verbalizers pg_catalog.jsonb DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_zero_shot_worded' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_zero_shot(input pg_catalog.text, choices pg_catalog.text[],
    descriptions pg_catalog.jsonb DEFAULT NULL, verbalizers pg_catalog.jsonb DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_zero_shot_worded' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_zero_shot IS
    'the most likely of the given choices for a prompt, with the bare backbone';
COMMENT ON FUNCTION @extschema@.ia3_zero_shot IS
    'the same as ia3_predict_zero_shot';

-- The same with a threshold: NULL for a choice that is less likely. These are not STRICT, so that choices and threshold can be
-- left out. A domain is never preferred to its base type, nor is it the exact type of an argument: a call with two or three
-- arguments, whatever types the client sends, means a function above.
CREATE DOMAIN ia3.task_reference AS pg_catalog.text;
COMMENT ON DOMAIN ia3.task_reference IS 'name of a task, or task@version, for functions that must not be preferred to others';
CREATE FUNCTION @extschema@.ia3_predict(task ia3.task_reference, input pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_text_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_fields(task ia3.task_reference, fields pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_fields_text_above' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict(ia3.task_reference, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for a text, if it is likely enough';
COMMENT ON FUNCTION @extschema@.ia3_predict(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for the fields of its template, if it is likely enough';
COMMENT ON FUNCTION @extschema@.ia3_predict(ia3.task_reference, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for the fields of its template as json, if it is likely enough';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for the fields of its template, if it is likely enough';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(ia3.task_reference, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for the fields of its template as json, if it is likely enough';
COMMENT ON FUNCTION @extschema@.ia3_predict_fields(ia3.task_reference, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'the most likely choice of a task for the fields of its template, written as JSON, if it is likely enough';

-- ia3_classify for choices that are paths in a hierarchy, declared in the same way.
CREATE FUNCTION @extschema@.ia3_classify(task ia3.task_reference, input pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_text_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task ia3.task_reference, fields pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
CREATE FUNCTION @extschema@.ia3_classify_fields(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, depth pg_catalog.int4 DEFAULT NULL, separator pg_catalog.text DEFAULT ' > ',
    OUT choice pg_catalog.text, OUT score pg_catalog.float8, OUT probability pg_catalog.float8,
    OUT rank pg_catalog.int4) RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_classify_fields_text_levels' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_classify(ia3.task_reference, pg_catalog.text, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for a text by the sum of their probabilities';
COMMENT ON FUNCTION @extschema@.ia3_classify(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for the fields of a task''s template by the sum of their probabilities';
COMMENT ON FUNCTION @extschema@.ia3_classify(ia3.task_reference, pg_catalog.json, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for the fields of a task''s template by the sum of their probabilities';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(ia3.task_reference, pg_catalog.text, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for the fields of a task''s template, written as JSON, by the sum of their probabilities';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for the fields of a task''s template by the sum of their probabilities';
COMMENT ON FUNCTION @extschema@.ia3_classify_fields(ia3.task_reference, pg_catalog.json, pg_catalog.text[], pg_catalog.int4,
    pg_catalog.text) IS
    'ranks the upper levels of choices for the fields of a task''s template by the sum of their probabilities';

-- Sets of choices. None of these is STRICT, since the choices may be NULL.
CREATE FUNCTION @extschema@.ia3_predict_set(task pg_catalog.text, input pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_set(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_fields' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_set(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_set_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_fields' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_set_fields(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_set_fields(task pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, coverage pg_catalog.float8 DEFAULT 0.9)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_set_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_set(pg_catalog.text, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for a text';
COMMENT ON FUNCTION @extschema@.ia3_predict_set(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict_set(pg_catalog.text, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_set_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict_set_fields(pg_catalog.text, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_set_fields(pg_catalog.text, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'as many choices of a task as contain the right one with a given probability, for the fields of its template as the text of a JSON object';

-- The right labels of multi-label tasks. None of these is STRICT, since choices and threshold may be NULL.
CREATE FUNCTION @extschema@.ia3_predict_labels(task pg_catalog.text, input pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_labels(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_fields' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_labels(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_labels_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_fields' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_labels_fields(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_labels_fields(task pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text[]
    AS 'MODULE_PATHNAME', 'ia3_predict_labels_fields_text' LANGUAGE C STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_labels(pg_catalog.text, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for a text';
COMMENT ON FUNCTION @extschema@.ia3_predict_labels(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict_labels(pg_catalog.text, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_labels_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for the fields of its template';
COMMENT ON FUNCTION @extschema@.ia3_predict_labels_fields(pg_catalog.text, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for the fields of its template as json';
COMMENT ON FUNCTION @extschema@.ia3_predict_labels_fields(pg_catalog.text, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'the choices of a multi-label task that are right for the fields of its template as the text of a JSON object';

-- The same as a window function, which forms batches by itself: ia3_predict_window(...) OVER ().
-- What IMMUTABLE promises holds because versions never change, and because a task and a version name the same vectors for ever.
CREATE FUNCTION @extschema@.ia3_predict_version(task pg_catalog.text, version pg_catalog.int4,
    input pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_version_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_version(task pg_catalog.text, version pg_catalog.int4,
    input pg_catalog.text, choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_version_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_version(task pg_catalog.text, version pg_catalog.int4,
    fields pg_catalog.jsonb) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_version_fields' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_version(task pg_catalog.text, version pg_catalog.int4,
    fields pg_catalog.jsonb, choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_version_fields' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_version(pg_catalog.text, pg_catalog.int4, pg_catalog.text) IS
    'the most likely choice of a version for a text, as it was stored, whatever the settings';
COMMENT ON FUNCTION @extschema@.ia3_predict_version(pg_catalog.text, pg_catalog.int4, pg_catalog.text,
    pg_catalog.text[]) IS
    'the most likely of the given choices for a text and a version, as it was stored, whatever the settings';
COMMENT ON FUNCTION @extschema@.ia3_predict_version(pg_catalog.text, pg_catalog.int4, pg_catalog.jsonb) IS
    'the most likely choice of a version for the fields of its template, as it was stored, whatever the settings';
COMMENT ON FUNCTION @extschema@.ia3_predict_version(pg_catalog.text, pg_catalog.int4, pg_catalog.jsonb,
    pg_catalog.text[]) IS
    'the most likely of the given choices for the fields of a version''s template, whatever the settings';

CREATE FUNCTION @extschema@.ia3_check_indexes(sample_rows pg_catalog.int4 DEFAULT 1000,
    OUT index pg_catalog.regclass, OUT checked pg_catalog.int8, OUT differing pg_catalog.int8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_check_indexes' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 10;
COMMENT ON FUNCTION @extschema@.ia3_check_indexes IS
    'predicts rows again and compares them with the indexes that contain ia3_predict_version';

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
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.text) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.jsonb) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.text[]) IS
    'ia3_predict as a window function';

CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, fields pg_catalog.json)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.json) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'ia3_predict as a window function';

CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.jsonb)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.json)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.text)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.jsonb) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.jsonb,
    pg_catalog.text[]) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.json) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.json,
    pg_catalog.text[]) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.text) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(pg_catalog.text, pg_catalog.text,
    pg_catalog.text[]) IS
    'ia3_predict as a window function';
CREATE FUNCTION @extschema@.ia3_predict_window_zero_shot(input pg_catalog.text, choices pg_catalog.text[])
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_zero_shot' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_window_zero_shot(pg_catalog.text, pg_catalog.text[]) IS
    'ia3_predict as a window function';

CREATE FUNCTION @extschema@.ia3_predict_window(task ia3.task_reference, input pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task ia3.task_reference, fields pg_catalog.jsonb,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task ia3.task_reference, fields pg_catalog.json,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_predict_window_fields(task ia3.task_reference, fields pg_catalog.text,
    choices pg_catalog.text[] DEFAULT NULL, min_probability pg_catalog.float8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_predict_window_fields_text' LANGUAGE C WINDOW STABLE PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_predict_window(ia3.task_reference, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window(ia3.task_reference, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(ia3.task_reference, pg_catalog.jsonb, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(ia3.task_reference, pg_catalog.json, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';
COMMENT ON FUNCTION @extschema@.ia3_predict_window_fields(ia3.task_reference, pg_catalog.text, pg_catalog.text[],
    pg_catalog.float8) IS
    'ia3_predict as a window function';

--
-- Generation. Greedy decoding always gives the same text. Sampling draws a seed when none is given, so it is VOLATILE,
-- and it cannot be STRICT; a NULL in any argument but the seed gives NULL nevertheless.
--
-- PostgreSQL prefers float8 to integer where an argument fits both. A domain is never preferred, so that
-- ia3_generate(task, input, max_tokens) is not taken for ia3_generate(input, max_tokens, temperature) when a client sends
-- max_tokens as a smallint or without a type.
CREATE DOMAIN ia3.temperature AS pg_catalog.float8;
COMMENT ON DOMAIN ia3.temperature IS 'temperature of ia3_generate without a task';
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
    max_tokens pg_catalog.int4, temperature ia3.temperature, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_zero_shot' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
    'generates text with a task by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.text, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text with a task by sampling';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.jsonb, pg_catalog.int4) IS
    'generates text from the fields of a task''s template by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.jsonb, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from the fields of a task''s template by sampling';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.int4) IS
    'generates text from a prompt by greedy decoding, with the bare backbone';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.int4,
    ia3.temperature, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from a prompt by sampling, with the bare backbone';

CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, fields pg_catalog.json,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate(task pg_catalog.text, fields pg_catalog.json,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_fields_text' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.json, pg_catalog.int4) IS
    'generates text from the fields of a task''s template as json by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate(pg_catalog.text, pg_catalog.json, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from the fields of a task''s template as json by sampling';

CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_fields' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.jsonb,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_fields' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.json,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.json,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_fields_text' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.text,
    max_tokens pg_catalog.int4 DEFAULT 64) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_fields_text' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_fields(task pg_catalog.text, fields pg_catalog.text,
    max_tokens pg_catalog.int4, temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0,
    seed pg_catalog.int8 DEFAULT NULL) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_fields_text' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.int4) IS
    'generates text from the fields of a task''s template by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.jsonb, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from the fields of a task''s template by sampling';
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.json, pg_catalog.int4) IS
    'generates text from the fields of a task''s template as json by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.json, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from the fields of a task''s template as json by sampling';
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
    'generates text from the fields of a task''s template, written as JSON, by greedy decoding';
COMMENT ON FUNCTION @extschema@.ia3_generate_fields(pg_catalog.text, pg_catalog.text, pg_catalog.int4,
    pg_catalog.float8, pg_catalog.int4, pg_catalog.int8) IS
    'generates text from the fields of a task''s template, written as JSON, by sampling';
CREATE FUNCTION @extschema@.ia3_generate_zero_shot(input pg_catalog.text, max_tokens pg_catalog.int4 DEFAULT 64)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_generate_zero_shot' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION @extschema@.ia3_generate_zero_shot(input pg_catalog.text, max_tokens pg_catalog.int4,
    temperature pg_catalog.float8, top_k pg_catalog.int4 DEFAULT 0, seed pg_catalog.int8 DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sample_zero_shot' LANGUAGE C VOLATILE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION @extschema@.ia3_generate_zero_shot(pg_catalog.text, pg_catalog.int4) IS
    'generates text from a prompt by greedy decoding, with the bare backbone';
COMMENT ON FUNCTION @extschema@.ia3_generate_zero_shot(pg_catalog.text, pg_catalog.int4, pg_catalog.float8,
    pg_catalog.int4, pg_catalog.int8) IS
    'generates text from a prompt by sampling, with the bare backbone';

--
-- Evaluation. These functions are VOLATILE because the query that they run may call any function; it cannot write.
--
CREATE FUNCTION @extschema@.ia3_evaluate(task pg_catalog.text, query pg_catalog.text,
    min_probability pg_catalog.float8 DEFAULT NULL,
    OUT n pg_catalog.int8, OUT accuracy pg_catalog.float8, OUT macro_f1 pg_catalog.float8,
    OUT mean_score_gap pg_catalog.float8, OUT seconds pg_catalog.float8, OUT answered pg_catalog.int8,
    OUT accuracy_answered pg_catalog.float8, OUT micro_f1 pg_catalog.float8) RETURNS pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_evaluate IS 'measures how well a task predicts the labels of the rows of a query';
CREATE FUNCTION @extschema@.ia3_confusion(task pg_catalog.text, query pg_catalog.text,
    OUT label pg_catalog.text, OUT predicted pg_catalog.text, OUT n pg_catalog.int8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000 ROWS 16;
COMMENT ON FUNCTION @extschema@.ia3_confusion IS
    'counts, for the rows of a query, which label a task predicts for which true label';
CREATE FUNCTION @extschema@.ia3_class_report(task pg_catalog.text, query pg_catalog.text,
    OUT label pg_catalog.text, OUT n pg_catalog.int8, OUT predicted pg_catalog.int8,
    OUT "precision" pg_catalog.float8, OUT recall pg_catalog.float8, OUT f1 pg_catalog.float8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000 ROWS 16;
COMMENT ON FUNCTION @extschema@.ia3_class_report IS
    'precision, recall and F1 of a task for each label, on the rows of a query';
CREATE FUNCTION @extschema@.ia3_coverage_curve(task pg_catalog.text, query pg_catalog.text,
    OUT threshold pg_catalog.float8, OUT answered pg_catalog.int8, OUT accuracy pg_catalog.float8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000 ROWS 100;
COMMENT ON FUNCTION @extschema@.ia3_coverage_curve(pg_catalog.text, pg_catalog.text) IS
    'for each min_probability: how many rows of a query a task answers, and how accurately';
CREATE FUNCTION @extschema@.ia3_coverage_curve(task pg_catalog.text,
    OUT threshold pg_catalog.float8, OUT answered pg_catalog.int8, OUT accuracy pg_catalog.float8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_coverage_curve_held_out' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 100;
COMMENT ON FUNCTION @extschema@.ia3_coverage_curve(pg_catalog.text) IS
    'the same for the rows that a version is calibrated with, predicted by versions that had not seen them';
-- Sets of choices: how large 1 - probability may be.
CREATE FUNCTION ia3.conformal_quantile(scores pg_catalog.float8[], coverage pg_catalog.float8) RETURNS pg_catalog.float8
    AS 'MODULE_PATHNAME', 'ia3_conformal_quantile' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ia3.conformal_quantile IS
    'the smallest bound that a further score exceeds with a probability of at most 1 - coverage, if it is exchangeable with these';
CREATE FUNCTION @extschema@.ia3_compare(task_a pg_catalog.text, task_b pg_catalog.text, query pg_catalog.text,
    OUT n pg_catalog.int8, OUT accuracy_a pg_catalog.float8, OUT accuracy_b pg_catalog.float8,
    OUT difference pg_catalog.float8, OUT difference_low pg_catalog.float8, OUT difference_high pg_catalog.float8,
    OUT p_value pg_catalog.float8, OUT differing pg_catalog.int8[]) RETURNS pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_compare IS
    'compares the accuracies of two versions, of one task or of two, on the rows of a query';
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text, version pg_catalog.int4) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_plot_version' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_plot(task pg_catalog.text, query pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_plot_query' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
CREATE FUNCTION @extschema@.ia3_plot_version(task pg_catalog.text, version pg_catalog.int4)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION @extschema@.ia3_plot(pg_catalog.text) IS
    'the training losses of a task''s active version as an SVG picture';
COMMENT ON FUNCTION @extschema@.ia3_plot(pg_catalog.text, pg_catalog.int4) IS
    'the training losses of a version as an SVG picture';
COMMENT ON FUNCTION @extschema@.ia3_plot_version IS 'the training losses of a version as an SVG picture';
COMMENT ON FUNCTION @extschema@.ia3_plot(pg_catalog.text, pg_catalog.text) IS
    'the training losses of a task and its confusion matrix on the rows of a query as an SVG picture';
CREATE FUNCTION @extschema@.ia3_plot_calibration(task pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
CREATE FUNCTION @extschema@.ia3_plot_calibration(task pg_catalog.text, query pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_plot_calibration_query' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_plot_calibration(pg_catalog.text) IS
    'how often a calibrated version is right where it says so, on the rows that it is calibrated with, as an SVG picture';
COMMENT ON FUNCTION @extschema@.ia3_plot_calibration(pg_catalog.text, pg_catalog.text) IS
    'how often a version is right where it says so, on the rows of a query, as an SVG picture';
CREATE FUNCTION @extschema@.ia3_sparkline("values" pg_catalog.jsonb) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_sparkline("values" pg_catalog.json) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sparkline_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_sparkline("values" pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_sparkline_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_sparkline(pg_catalog.jsonb) IS
    'the numbers of an array as a line of at most 20 block characters';
COMMENT ON FUNCTION @extschema@.ia3_sparkline(pg_catalog.json) IS
    'the numbers of an array as a line of at most 20 block characters';
COMMENT ON FUNCTION @extschema@.ia3_sparkline(pg_catalog.text) IS
    'the numbers of an array as a line of at most 20 block characters';

--
-- Versions
--
CREATE FUNCTION @extschema@.ia3_activate(task pg_catalog.text, version pg_catalog.int4)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_activate IS 'makes a version of a task the active one';
CREATE FUNCTION @extschema@.ia3_drop(task pg_catalog.text) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_drop(pg_catalog.text) IS 'removes a task and all its versions';
CREATE FUNCTION @extschema@.ia3_drop(task pg_catalog.text, version pg_catalog.int4)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME', 'ia3_drop_version' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_drop(pg_catalog.text, pg_catalog.int4) IS
    'removes a version of a task that is not the active one';

-- Copying, averaging and importing need a grant, like training; renaming does not, as it stores nothing.
CREATE FUNCTION @extschema@.ia3_rename(task pg_catalog.text, new_name pg_catalog.text)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_rename IS 'gives a task another name';
CREATE FUNCTION @extschema@.ia3_copy(task pg_catalog.text, new_name pg_catalog.text)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_copy IS 'makes a new task of the caller with all versions of another';
CREATE FUNCTION @extschema@.ia3_average(task pg_catalog.text, versions pg_catalog.text[],
    weights pg_catalog.float8[] DEFAULT NULL) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_average IS
    'stores the weighted mean of the vectors of versions as a new version and returns its number';
-- Numbers are written with all their digits: what is imported again has to be the same.
CREATE FUNCTION @extschema@.ia3_export_task(task pg_catalog.text) RETURNS pg_catalog.jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 SET extra_float_digits = 3;
COMMENT ON FUNCTION @extschema@.ia3_export_task IS 'a task with all its versions, for another database';
CREATE FUNCTION @extschema@.ia3_import_task(export pg_catalog.jsonb, task pg_catalog.text DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_import_task(export pg_catalog.json, task pg_catalog.text DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_import_task_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
CREATE FUNCTION @extschema@.ia3_import_task(export pg_catalog.text, task pg_catalog.text DEFAULT NULL)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_import_task_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION @extschema@.ia3_import_task(pg_catalog.jsonb, pg_catalog.text) IS
    'makes a task of what ia3_export_task returned and returns its name';
COMMENT ON FUNCTION @extschema@.ia3_import_task(pg_catalog.json, pg_catalog.text) IS
    'makes a task of what ia3_export_task returned and returns its name';
COMMENT ON FUNCTION @extschema@.ia3_import_task(pg_catalog.text, pg_catalog.text) IS
    'makes a task of what ia3_export_task returned and returns its name';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_copy(pg_catalog.text, pg_catalog.text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_average(pg_catalog.text, pg_catalog.text[], pg_catalog.float8[])
    FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import_task(pg_catalog.jsonb, pg_catalog.text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import_task(pg_catalog.json, pg_catalog.text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import_task(pg_catalog.text, pg_catalog.text) FROM PUBLIC;

--
-- Sharing: read access for a role and its members, or for everybody ('public').
--
CREATE FUNCTION @extschema@.ia3_grant(task pg_catalog.text, role pg_catalog.name) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_grant IS 'lets a role read a task; ''public'' means everybody';
CREATE FUNCTION @extschema@.ia3_revoke(task pg_catalog.text, role pg_catalog.name) RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_revoke IS 'revokes read access that ia3_grant has given';
CREATE FUNCTION @extschema@.ia3_reassign(old_owner pg_catalog.name, new_owner pg_catalog.name)
    RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.ia3_reassign IS
    'gives all tasks of a role to another role and returns their number';

--
-- Interchange. The stored bytes are a PEFT adapter_model.safetensors; whoever can see a task may export it. Importing
-- needs a grant, and merging the privileges of pg_write_server_files besides.
--
CREATE FUNCTION @extschema@.ia3_export(task pg_catalog.text) RETURNS pg_catalog.bytea
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION @extschema@.ia3_export IS 'the vectors of a task as PEFT''s adapter_model.safetensors';
CREATE FUNCTION @extschema@.ia3_export_config(task pg_catalog.text) RETURNS pg_catalog.jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION @extschema@.ia3_export_config IS 'the adapter_config.json that goes with ia3_export';
CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea)
    RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea,
    config pg_catalog.jsonb) RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea) IS
    'stores the bytes of an adapter_model.safetensors as a new version and returns its number';
COMMENT ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.jsonb) IS
    'stores an adapter_model.safetensors, checked against its adapter_config.json, as a new version';

CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea, config pg_catalog.json)
    RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME', 'ia3_import_text' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
CREATE FUNCTION @extschema@.ia3_import(task pg_catalog.text, adapter pg_catalog.bytea, config pg_catalog.text)
    RETURNS pg_catalog.int4
    AS 'MODULE_PATHNAME', 'ia3_import_text' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
COMMENT ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.json) IS
    'stores an adapter_model.safetensors, checked against its adapter_config.json, as a new version';
COMMENT ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.text) IS
    'stores an adapter_model.safetensors, checked against its adapter_config.json, as a new version';
CREATE FUNCTION @extschema@.ia3_merge(task pg_catalog.text, directory pg_catalog.text)
    RETURNS pg_catalog.void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;
COMMENT ON FUNCTION @extschema@.ia3_merge IS
    'writes, on the server, a checkpoint with the vectors of a task folded into the weights';
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_merge(pg_catalog.text, pg_catalog.text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.jsonb)
    FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.json)
    FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.ia3_import(pg_catalog.text, pg_catalog.bytea, pg_catalog.text)
    FROM PUBLIC;

--
-- Introspection
--
CREATE FUNCTION @extschema@.ia3_version() RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_version IS 'version of the extension''s library';
CREATE FUNCTION @extschema@.ia3_tokenize(input pg_catalog.text,
    OUT "position" pg_catalog.int4, OUT id pg_catalog.int4, OUT piece pg_catalog.text)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 50;
CREATE FUNCTION @extschema@.ia3_tokenize(input pg_catalog.text, backbone pg_catalog.text,
    OUT "position" pg_catalog.int4, OUT id pg_catalog.int4, OUT piece pg_catalog.text)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 50;
COMMENT ON FUNCTION @extschema@.ia3_tokenize(pg_catalog.text) IS
    'the tokens of a text, with the tokenizer of the default backbone';
COMMENT ON FUNCTION @extschema@.ia3_tokenize(pg_catalog.text, pg_catalog.text) IS
    'the tokens of a text, with the tokenizer of a backbone';
CREATE FUNCTION @extschema@.ia3_check_backbone(path pg_catalog.text,
    time_limit pg_catalog.interval DEFAULT '10 minutes',
    OUT level pg_catalog.text, OUT item pg_catalog.text, OUT value pg_catalog.text)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100000 ROWS 20;
COMMENT ON FUNCTION @extschema@.ia3_check_backbone IS
    'what a directory with a backbone is, and whether an engine can use it';

CREATE FUNCTION @extschema@.ia3_backbone_config(backbone pg_catalog.text) RETURNS pg_catalog.jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION @extschema@.ia3_backbone_config IS
    'the configuration of a backbone: the members of its config.json that matter, with the defaults of those that are missing';
-- Sizes and costs as in section 4.2 and table 1 of the paper. The arguments' defaults are the paper's.
CREATE FUNCTION @extschema@.ia3_cost(config pg_catalog.jsonb,
    tokens pg_catalog.int4 DEFAULT 103,
    choices pg_catalog.int4 DEFAULT 2,
    choice_tokens pg_catalog.int4 DEFAULT 5,
    shots pg_catalog.int4 DEFAULT 41,
    shot_tokens pg_catalog.int4 DEFAULT 98,
    steps pg_catalog.int4 DEFAULT 1000,
    batch_size pg_catalog.int4 DEFAULT 8,
    method pg_catalog.text DEFAULT 'ia3',
    dtype pg_catalog.text DEFAULT 'bfloat16',
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    OUT parameters pg_catalog.int8,
    OUT paper_inference_flops pg_catalog.float8,
    OUT paper_training_flops pg_catalog.float8,
    OUT paper_icl_flops pg_catalog.float8,
    OUT inference_flops pg_catalog.float8,
    OUT training_flops pg_catalog.float8,
    OUT icl_flops pg_catalog.float8,
    OUT stored_bytes pg_catalog.int8,
    OUT inference_memory_bytes pg_catalog.int8,
    OUT training_memory_bytes pg_catalog.int8,
    OUT backbone_parameters pg_catalog.int8)
    RETURNS pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION @extschema@.ia3_cost(pg_catalog.jsonb, pg_catalog.int4, pg_catalog.int4, pg_catalog.int4,
    pg_catalog.int4, pg_catalog.int4, pg_catalog.int4, pg_catalog.int4, pg_catalog.text, pg_catalog.text,
    pg_catalog.int4, pg_catalog.float8, pg_catalog.text[], pg_catalog.bool, pg_catalog.int4, pg_catalog.bool, pg_catalog.int4,
    pg_catalog.int4, pg_catalog.bool, pg_catalog.int4, pg_catalog.float8, pg_catalog.int4) IS
    'what predicting, training and in-context learning cost with a backbone of this configuration';
CREATE FUNCTION @extschema@.ia3_cost(task pg_catalog.text,
    tokens pg_catalog.int4 DEFAULT 103,
    choices pg_catalog.int4 DEFAULT NULL,
    choice_tokens pg_catalog.int4 DEFAULT NULL,
    shots pg_catalog.int4 DEFAULT 41,
    shot_tokens pg_catalog.int4 DEFAULT 98,
    steps pg_catalog.int4 DEFAULT 1000,
    batch_size pg_catalog.int4 DEFAULT 8,
    method pg_catalog.text DEFAULT NULL,
    dtype pg_catalog.text DEFAULT NULL,
    rank pg_catalog.int4 DEFAULT NULL,
    alpha pg_catalog.float8 DEFAULT NULL,
    targets pg_catalog.text[] DEFAULT NULL,
    norms pg_catalog.bool DEFAULT NULL,
    prompt_length pg_catalog.int4 DEFAULT NULL,
    decoder pg_catalog.bool DEFAULT NULL,
    bottleneck pg_catalog.int4 DEFAULT NULL,
    prefix_length pg_catalog.int4 DEFAULT NULL,
    vectors pg_catalog.bool DEFAULT NULL,
    intrinsic_dim pg_catalog.int4 DEFAULT NULL,
    keep_ratio pg_catalog.float8 DEFAULT NULL,
    ensemble pg_catalog.int4 DEFAULT NULL,
    OUT parameters pg_catalog.int8,
    OUT paper_inference_flops pg_catalog.float8,
    OUT paper_training_flops pg_catalog.float8,
    OUT paper_icl_flops pg_catalog.float8,
    OUT inference_flops pg_catalog.float8,
    OUT training_flops pg_catalog.float8,
    OUT icl_flops pg_catalog.float8,
    OUT stored_bytes pg_catalog.int8,
    OUT inference_memory_bytes pg_catalog.int8,
    OUT training_memory_bytes pg_catalog.int8,
    OUT backbone_parameters pg_catalog.int8)
    RETURNS pg_catalog.record
    AS 'MODULE_PATHNAME', 'ia3_cost_task' LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION @extschema@.ia3_cost(pg_catalog.text, pg_catalog.int4, pg_catalog.int4, pg_catalog.int4,
    pg_catalog.int4, pg_catalog.int4, pg_catalog.int4, pg_catalog.int4, pg_catalog.text, pg_catalog.text,
    pg_catalog.int4, pg_catalog.float8, pg_catalog.text[], pg_catalog.bool, pg_catalog.int4, pg_catalog.bool, pg_catalog.int4,
    pg_catalog.int4, pg_catalog.bool, pg_catalog.int4, pg_catalog.float8, pg_catalog.int4) IS
    'the same for the backbone, the method and the choices of a task';

CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.jsonb)
    RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.jsonb,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.jsonb) IS
    'fills a template with fields';
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text[]) IS
    'fills a template with fields and choices';

CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.json) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_render_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.json,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_render_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.text) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_render_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION @extschema@.ia3_render(template pg_catalog.text, fields pg_catalog.text,
    choices pg_catalog.text[]) RETURNS pg_catalog.text
    AS 'MODULE_PATHNAME', 'ia3_render_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.json) IS
    'fills a template with fields as json';
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.json, pg_catalog.text[]) IS
    'fills a template with fields as json and choices';
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.text) IS
    'fills a template with fields, written as JSON';
COMMENT ON FUNCTION @extschema@.ia3_render(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) IS
    'fills a template with fields, written as JSON, and choices';

-- Metrics may come from elsewhere (ia3_import_task), so a view over all versions must not fail on any.
CREATE FUNCTION ia3.json_number(object pg_catalog.jsonb, member pg_catalog.text) RETURNS pg_catalog.float8
    AS 'MODULE_PATHNAME', 'ia3_json_number' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ia3.json_number IS 'a member of a JSON object if it is a number that a float8 can hold, otherwise NULL';

-- A view reads tables as its owner, who is exempt from row security, so it repeats the policies of ia3.task and
-- ia3.adapter_query. The functions in them test the role that queries the view.
CREATE VIEW ia3.adapters WITH (security_barrier) AS
    SELECT a.task,
           a.version,
           (a.version OPERATOR(pg_catalog.=) t.active_version) IS TRUE AS active,
           t.owner,
           COALESCE(a.recipe OPERATOR(pg_catalog.->>) 'backbone', t.backbone) AS backbone,
           a.method,
           COALESCE((SELECT n::pg_catalog.int4
                       FROM ia3.json_number(a.recipe OPERATOR(pg_catalog.->) 'method_options', 'ensemble') n
                      WHERE n OPERATOR(pg_catalog.>=) 1 AND n OPERATOR(pg_catalog.<=) 32), 1) AS ensemble,
           a.parent_version,
           a.examples,
           pg_catalog.octet_length(a.vectors) AS size,
           ia3.json_number(a.metrics, 'loss') AS loss,
           @extschema@.ia3_sparkline(a.metrics OPERATOR(pg_catalog.->) 'loss_curve') AS loss_curve,
           a.created_by,
           a.created_at,
           a.recipe,
           a.metrics,
           a.digest,
           a.backbone_digest,
           CASE WHEN ia3.task_owned(t.owner) THEN q.query END AS query,
           a.temperature,
           ia3.json_number(a.metrics OPERATOR(pg_catalog.->) 'calibration', 'log_loss_before') AS log_loss_before,
           ia3.json_number(a.metrics OPERATOR(pg_catalog.->) 'calibration', 'log_loss_after') AS log_loss_after,
           ia3.json_number(a.metrics OPERATOR(pg_catalog.->) 'calibration', 'error_before') AS calibration_error_before,
           ia3.json_number(a.metrics OPERATOR(pg_catalog.->) 'calibration', 'error_after') AS calibration_error_after,
           a.thresholds
      FROM ia3.adapter a
      JOIN ia3.task t ON t.task OPERATOR(pg_catalog.=) a.task
      LEFT JOIN ia3.adapter_query q ON q.task OPERATOR(pg_catalog.=) a.task
       AND q.version OPERATOR(pg_catalog.=) a.version
     WHERE ia3.task_readable(t.owner, t.readers);
COMMENT ON VIEW ia3.adapters IS 'the versions of all tasks that the current role may read';
COMMENT ON COLUMN ia3.adapters.task IS 'task that the version belongs to';
COMMENT ON COLUMN ia3.adapters.version IS 'number of the version within its task, from 1';
COMMENT ON COLUMN ia3.adapters.active IS 'whether calls without @version use it';
COMMENT ON COLUMN ia3.adapters.owner IS 'role that owns the task';
COMMENT ON COLUMN ia3.adapters.backbone IS 'backbone that the version was trained on';
COMMENT ON COLUMN ia3.adapters.method IS 'method of fine-tuning: what was trained';
COMMENT ON COLUMN ia3.adapters.ensemble IS 'how many members an ensemble has; 1 for a single adapter';
COMMENT ON COLUMN ia3.adapters.parent_version IS
    'version of the same task that training started from; NULL if it started elsewhere';
COMMENT ON COLUMN ia3.adapters.examples IS 'number of training examples; NULL for an imported version';
COMMENT ON COLUMN ia3.adapters.size IS 'size of the vectors in bytes';
COMMENT ON COLUMN ia3.adapters.loss IS 'final loss; NULL for an imported version';
COMMENT ON COLUMN ia3.adapters.loss_curve IS 'the losses as a line of block characters';
COMMENT ON COLUMN ia3.adapters.created_by IS 'role that trained or imported the version';
COMMENT ON COLUMN ia3.adapters.created_at IS 'when the version was stored';
COMMENT ON COLUMN ia3.adapters.recipe IS 'settings of the training run, its seed included';
COMMENT ON COLUMN ia3.adapters.metrics IS 'losses and timing of the training run; NULL for an imported version';
COMMENT ON COLUMN ia3.adapters.digest IS 'SHA-256 of the vectors';
COMMENT ON COLUMN ia3.adapters.backbone_digest IS 'SHA-256 of the backbone that the vectors were trained on';
COMMENT ON COLUMN ia3.adapters.query IS 'query whose rows were the training examples; NULL for all but the owner';
COMMENT ON COLUMN ia3.adapters.temperature IS
    'what scores are divided by before they become probabilities; NULL if the version is not calibrated';
COMMENT ON COLUMN ia3.adapters.log_loss_before IS 'log loss of the held-out rows without calibration';
COMMENT ON COLUMN ia3.adapters.log_loss_after IS 'log loss of the held-out rows, each with a temperature from the other folds';
COMMENT ON COLUMN ia3.adapters.calibration_error_before IS 'calibration error of the held-out rows without calibration';
COMMENT ON COLUMN ia3.adapters.calibration_error_after IS
    'calibration error of the held-out rows, each with a temperature from the other folds';
COMMENT ON COLUMN ia3.adapters.thresholds IS
    'the probability from which on a label of a multi-label version is right; NULL: 0.5 for all';
GRANT SELECT ON ia3.adapters TO PUBLIC;

--
-- Engines and training runs, as shared memory shows them. Both views answer at once, whatever an engine is doing.
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
    OUT truncated_rows pg_catalog.int8,
    OUT cache_hits pg_catalog.int8,
    OUT cache_misses pg_catalog.int8,
    OUT cached_adapters pg_catalog.int8,
    OUT cached_bytes pg_catalog.int8,
    OUT train_jobs pg_catalog.int8,
    OUT train_steps pg_catalog.int8,
    OUT score_flops pg_catalog.float8,
    OUT train_flops pg_catalog.float8,
    OUT score_seconds pg_catalog.float8,
    OUT train_seconds pg_catalog.float8,
    OUT score_wait_seconds pg_catalog.float8,
    OUT train_wait_seconds pg_catalog.float8,
    OUT connections pg_catalog.int8,
    OUT outstanding pg_catalog.int8)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_stat_engine IS 'implementation of the view ia3_stat_engine';
CREATE VIEW @extschema@.ia3_stat_engine AS
    SELECT s.backbone, s.path, s.device, s.dtype, s.state, s.percent,
           s.pid, s.since, s.restarts, s.message, s.device_description, s.model_type, s.parameters,
           s.bytes, s.backbone_digest, s.queue_rows, s.batches, s.rows, s.input_tokens,
           s.decoder_tokens, s.mean_rows_per_batch, s.distinct_tasks_per_batch, s.max_batch_rows, s.dedup_rows,
           s.truncated_rows, s.cache_hits, s.cache_misses, s.cached_adapters, s.cached_bytes, s.train_jobs, s.train_steps,
           s.score_flops, s.train_flops, s.score_seconds, s.train_seconds, s.score_wait_seconds, s.train_wait_seconds, s.connections,
           s.outstanding
      FROM @extschema@.ia3_stat_engine() s;
COMMENT ON VIEW @extschema@.ia3_stat_engine IS 'state and counters of the engines of all backbones';
CREATE FUNCTION @extschema@.ia3_ready(backbone pg_catalog.text DEFAULT NULL) RETURNS pg_catalog.bool
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ia3_ready IS 'whether an engine of the backbone (NULL: ia3.backbone) answers; never waits, never fails';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.backbone IS 'name of the backbone in ia3.backbones';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.path IS 'directory of the backbone, or its name on the hub, as configured';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.device IS
    'device in use; the configured one while the engine cannot be reached';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.dtype IS
    'data type in use; the configured one while the engine cannot be reached';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.state IS
    'starting, loading, ready, failed, restarting (it died, and waits to be started again), draining (it is replaced, and '
    'finishes its requests), hung (it gives no sign of life, and will be killed) or stopped';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.percent IS 'how much of the backbone is loaded, in percent';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.pid IS 'process ID of the engine';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.since IS 'when the engine entered this state';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.restarts IS 'number of restarts';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.message IS
    'why the engine failed or died last, what a draining engine still does, or how a hung engine fails to respond';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.device_description IS
    'processor, build of the kernels and threads, or the GPU';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.model_type IS 'type of the model as its configuration names it';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.parameters IS 'number of parameters of the backbone';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.bytes IS 'memory that the weights take, in bytes';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.backbone_digest IS 'SHA-256 of the backbone';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.queue_rows IS 'rows that wait for a batch now';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.batches IS 'batches computed since the engine started';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.rows IS 'rows computed since the engine started';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.input_tokens IS 'tokens of their inputs';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.decoder_tokens IS 'tokens that the decoder computed';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.mean_rows_per_batch IS 'rows per batch on average';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.distinct_tasks_per_batch IS 'different tasks per batch on average';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.max_batch_rows IS 'rows of the largest batch';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.dedup_rows IS 'rows that an identical row of the same batch answered';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.truncated_rows IS
    'inputs that were too long and have been truncated, of predictions and of training';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.cache_hits IS 'adapters that requests found in the cache';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.cache_misses IS 'adapters that requests did not find in the cache';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.cached_adapters IS 'adapters in the cache now';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.cached_bytes IS 'memory that they take, in bytes';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.train_jobs IS 'training runs in progress now';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.train_steps IS 'training steps since the engine started';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.score_flops IS 'floating-point operations of matrix products, for predictions';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.train_flops IS 'the same for training';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.score_seconds IS 'time spent predicting, in seconds';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.train_seconds IS 'time spent training, in seconds';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.score_wait_seconds IS
    'time that rows waited for a batch, summed, in seconds';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.train_wait_seconds IS
    'time that training steps waited, summed, in seconds';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.connections IS 'connections now';
COMMENT ON COLUMN @extschema@.ia3_stat_engine.outstanding IS
    'unanswered requests in bytes, by which requests are distributed; a training run counts as 16384';
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
COMMENT ON FUNCTION @extschema@.ia3_stat_progress_train IS
    'implementation of the view ia3_stat_progress_train';
CREATE VIEW @extschema@.ia3_stat_progress_train AS
    SELECT s.pid, s.datid, d.datname, s.usesysid, u.rolname AS usename, s.task, s.step, s.steps, s.loss,
           s.rows_per_second, s.seconds_left, s.started
      FROM @extschema@.ia3_stat_progress_train() s
      LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.datid
      LEFT JOIN pg_catalog.pg_roles u ON u.oid OPERATOR(pg_catalog.=) s.usesysid;
COMMENT ON VIEW @extschema@.ia3_stat_progress_train IS 'training runs in progress, one row per backend';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.pid IS 'process ID of the backend that trains';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.datid IS 'OID of its database';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.datname IS 'name of its database';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.usesysid IS 'OID of the role that trains';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.usename IS 'name of the role that trains';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.task IS 'task that is being trained';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.step IS 'steps completed';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.steps IS 'steps of the whole run';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.loss IS 'latest loss';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.rows_per_second IS 'examples trained on per second';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.seconds_left IS 'estimated time to the end, in seconds';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_train.started IS 'when the run started';
GRANT SELECT ON @extschema@.ia3_stat_progress_train TO PUBLIC;

CREATE FUNCTION @extschema@.ia3_stat_progress_label(
    OUT pid pg_catalog.int4,
    OUT datid pg_catalog.oid,
    OUT usesysid pg_catalog.oid,
    OUT task pg_catalog.text,
    OUT relid pg_catalog.oid,
    OUT blocks_done pg_catalog.int8,
    OUT blocks_total pg_catalog.int8,
    OUT rows_labelled pg_catalog.int8,
    OUT started pg_catalog.timestamptz)
    RETURNS SETOF pg_catalog.record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
COMMENT ON FUNCTION @extschema@.ia3_stat_progress_label IS
    'implementation of the view ia3_stat_progress_label';
CREATE VIEW @extschema@.ia3_stat_progress_label AS
    SELECT s.pid, s.datid, d.datname, s.usesysid, u.rolname AS usename, s.task, s.relid, s.blocks_done, s.blocks_total,
           s.rows_labelled, s.started
      FROM @extschema@.ia3_stat_progress_label() s
      LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.datid
      LEFT JOIN pg_catalog.pg_roles u ON u.oid OPERATOR(pg_catalog.=) s.usesysid;
COMMENT ON VIEW @extschema@.ia3_stat_progress_label IS 'tables being labelled by ia3_label, one row per backend';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.pid IS 'process ID of the backend';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.datid IS 'OID of its database';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.datname IS 'name of its database';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.usesysid IS 'OID of the role that called ia3_label';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.usename IS 'name of the role that called ia3_label';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.task IS 'version that predicts, as task@version';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.relid IS 'OID of the table, in the database datid';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.blocks_done IS
    'blocks that have been gone through, of the table or of each partition';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.blocks_total IS
    'blocks of the table, or of its largest partition, when ia3_label began';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.rows_labelled IS 'rows updated so far, also those not yet committed';
COMMENT ON COLUMN @extschema@.ia3_stat_progress_label.started IS 'when ia3_label began';
GRANT SELECT ON @extschema@.ia3_stat_progress_label TO PUBLIC;
