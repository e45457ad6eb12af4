-- Activating and dropping versions; immutability; what pg_dump includes.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE shots (text text, label text);
INSERT INTO shots VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access');
SELECT ia3_train('t', 'TABLE shots', steps => 1, template => ARRAY['One: {text}']);
SELECT ia3_train('t', 'TABLE shots', steps => 1, template => ARRAY['Two: {text}'], choices => ARRAY['access', 'billing', 'x']);
SELECT ia3_train('t', $$SELECT text, label, ARRAY['billing', 'access'] AS choices FROM shots$$, steps => 1);

-- activation restores the template and the choices
SELECT active_version, template, choices FROM ia3.task;
SELECT ia3_activate('t', 1);
SELECT active_version, template, choices FROM ia3.task;
SELECT ia3_activate('t', 2);
SELECT active_version, template, choices FROM ia3.task;
SELECT version FROM ia3.adapters WHERE active;
-- a pinned version uses its own template and choices, the active one those of ia3.task
SELECT array_agg(choice ORDER BY choice) FROM ia3_classify('t@1', 'pay');
SELECT array_agg(choice ORDER BY choice) FROM ia3_classify('t@2', 'pay');
UPDATE ia3.task SET choices = ARRAY['yes', 'no'];
SELECT array_agg(choice ORDER BY choice) FROM ia3_classify('t', 'pay');
SELECT array_agg(choice ORDER BY choice) FROM ia3_classify('t@2', 'pay');
-- activation is transactional
BEGIN;
SELECT ia3_activate('t', 3);
SELECT active_version FROM ia3.task;
ROLLBACK;
SELECT active_version FROM ia3.task;
SELECT ia3_activate('t', 4);
SELECT ia3_activate('t', -1);
SELECT ia3_activate('u', 1);
SELECT ia3_activate(NULL, 1) IS NULL AS strict;

-- dropping
SELECT ia3_drop('t', 2);
SELECT ia3_drop('t', 9);
SELECT ia3_drop('t', 3);
SELECT ia3_predict('t@3', 'pay');
-- version numbers are not used again
SELECT ia3_train('t', 'TABLE shots', steps => 1);
SELECT ia3_drop('t', 1), ia3_drop('t', 2);
SELECT version, active FROM ia3.adapters ORDER BY version;

-- the rows of versions cannot be changed
UPDATE ia3.adapter SET recipe = '{}';
UPDATE ia3.adapter SET version = 7;
DO $$ BEGIN
    INSERT INTO ia3.adapter (task, version, vectors, digest, backbone_digest, recipe, created_by)
        VALUES ('t', 9, 'x', sha256('y'), sha256('z'), '{}', 'me');
EXCEPTION WHEN generated_always OR syntax_error THEN -- up to PostgreSQL 13 the latter
    RAISE WARNING 'the digest cannot be given';
END $$;
\set VERBOSITY terse
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    VALUES ('t', 9, 'x', 'short', '{}', 'me');
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    VALUES ('nobody', 9, 'x', sha256('z'), '{}', 'me');
INSERT INTO ia3.task (task, owner, backbone, template) VALUES ('a@b', quote_ident(current_user)::regrole, 'default', '{}');
\set VERBOSITY default

-- the tables are dumped with the database; vectors are stored uncompressed
SELECT extconfig::regclass[] FROM pg_extension WHERE extname = 'ia3';
SELECT attname, attstorage FROM pg_attribute WHERE attrelid = 'ia3.adapter'::regclass AND attname = 'vectors';

-- the properties of the functions that the planner uses
SELECT proname, provolatile, proisstrict, proparallel, procost, prorows FROM pg_proc
 WHERE proname IN ('ia3_train', 'ia3_classify', 'ia3_predict') GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1;
EXPLAIN (COSTS OFF) SELECT ia3_predict('nobody', 'planning does not ask anybody');

-- dropping a whole task
BEGIN;
SELECT ia3_drop('t');
SELECT count(*) FROM ia3.adapter;
SELECT ia3_predict('t', 'pay');
ROLLBACK;
SELECT ia3_drop('t');
SELECT ia3_drop('t');
SELECT count(*) FROM ia3.adapter;
DROP TABLE shots;
