-- Training: how queries become examples, what is stored, and transactions.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');

-- versions count up from 1, and the newest is active
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id;$$, steps => 3, seed => 7);
SELECT ia3_train('tickets', $$TABLE shots ORDER BY id$$, steps => 3, seed => 8);
SELECT task, version, active, owner::text = current_user AS mine, backbone, parent_version, examples, size > 10000 AS size,
       loss BETWEEN 0 AND 100 AS loss, created_by = current_user AS by_me, created_at <= now() AS created,
       length(backbone_digest) AS digest
  FROM ia3.adapters ORDER BY version;
SELECT task, backbone, template, choices, active_version, next_version, comment FROM ia3.task;

-- the same seed and rows give exactly the same vectors; another seed gives others
SELECT a.version, b.version, a.digest = b.digest AS same
  FROM ia3.adapter a, ia3.adapter b WHERE a.version < b.version ORDER BY 1, 2;
SELECT bool_and(digest = sha256(vectors)) FROM ia3.adapter;

-- the recipe and the query are all that is needed to repeat the run
SELECT query FROM ia3.adapter_query WHERE version = 1;
SELECT jsonb_pretty(recipe - '{device,dtype}'::text[]) FROM ia3.adapter WHERE version = 1;
SELECT recipe ? 'device' AND recipe ? 'dtype' FROM ia3.adapter WHERE version = 1;
SELECT metrics ->> 'steps' AS steps, metrics ->> 'examples' AS examples, metrics ->> 'truncated' AS truncated,
       jsonb_typeof(metrics -> 'loss_curve') AS curve
  FROM ia3.adapter WHERE version = 1;

-- constraints that are checked at once make no difference, nor does a recipe from before the release, which has the query in it
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1, seed => 7);
SELECT ia3_import_task(jsonb_set(ia3_export_task('tickets') #- '{versions,1,query}', '{versions,1,recipe,query}', '"SELECT 1"'), 'old');
SELECT ia3_copy('old', 'copy');
SELECT ia3_rename('copy', 'copied');
SELECT task, version, query, recipe ? 'query' AS in_recipe FROM ia3.adapters ORDER BY task, version;
ROLLBACK;

-- the procedure has the same arguments, gives the same vectors and returns the number
SELECT p.proargnames = f.proargnames || 'version'::text AS names,
       p.proallargtypes = string_to_array(f.proargtypes::text, ' ')::oid[] || 'int4'::regtype::oid AS types,
       pg_get_expr(p.proargdefaults, 0) = pg_get_expr(f.proargdefaults, 0) || ', NULL::integer' AS defaults
  FROM pg_proc f, pg_proc p WHERE f.proname = 'ia3_train' AND p.proname = 'ia3_train_task';
CALL ia3_train_task('called', $$SELECT text, label FROM shots ORDER BY id$$, steps => 3, seed => 7);
CALL ia3_train_task('called', $$SELECT text, label FROM shots ORDER BY id$$, steps => 3, seed => 7, init => 'called@1', activate => false);
SELECT c.version, c.active, c.parent_version, c.digest = t.digest AS same FROM ia3.adapters c, ia3.adapters t
 WHERE c.task = 'called' AND t.task = 'tickets' AND t.version = 1 ORDER BY 1;
-- it commits, also what its caller has done before
CREATE TABLE log (note text);
DO $$
DECLARE v int;
BEGIN
    INSERT INTO log VALUES ('before');
    CALL ia3_train_task('called', 'SELECT text, label FROM shots', steps => 1, seed => 7, version => v);
    INSERT INTO log VALUES ('version ' || v);
    ROLLBACK;
END $$;
SELECT * FROM log;
SELECT max(version) FROM ia3.adapters WHERE task = 'called';
-- so it runs where it can commit
BEGIN;
CALL ia3_train_task('called', 'SELECT text, label FROM shots', steps => 1);
ROLLBACK;
CREATE FUNCTION train_called() RETURNS int LANGUAGE plpgsql AS $$
DECLARE v int;
BEGIN
    CALL ia3_train_task('called', 'SELECT text, label FROM shots', steps => 1, version => v);
    RETURN v;
END $$;
SELECT train_called();
DO $$
DECLARE v int;
BEGIN
    CALL ia3_train_task('called', 'SELECT text, label FROM shots', steps => 1, version => v);
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
CREATE ROLE regress_ia3_trainer;
GRANT SELECT ON shots TO regress_ia3_trainer;
GRANT EXECUTE ON PROCEDURE ia3_train_task TO regress_ia3_trainer;
DO $$
DECLARE v int;
BEGIN
    SET LOCAL ia3.max_input_tokens = 20; -- which lasts until the commit, but counts for the run
    CALL ia3_train_task('called', 'SELECT text, label FROM shots', steps => 1, version => v);
    RAISE INFO 'tokens: %', (SELECT recipe ->> 'max_input_tokens' FROM ia3.adapter WHERE task = 'called' AND version = v);
    SET LOCAL ROLE regress_ia3_trainer;
    CALL ia3_train_task('hers', 'SELECT text, label FROM shots', steps => 1, version => v);
END $$;
CALL ia3_train_task('called', NULL);
CALL ia3_train_task('called', 'SELECT text, label FROM shots WHERE false');
SELECT max(version) FROM ia3.adapters WHERE task = 'called';
SELECT count(*) FROM ia3.adapters WHERE task = 'hers';
SELECT ia3_drop('called');
DROP FUNCTION train_called;
DROP TABLE log;
DROP OWNED BY regress_ia3_trainer;
DROP ROLE regress_ia3_trainer;

-- without a seed one is drawn and recorded
SELECT ia3_train('drawn', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1) AS a,
       ia3_train('drawn', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1) AS b;
SELECT count(DISTINCT recipe ->> 'seed') FROM ia3.adapter WHERE task = 'drawn';

-- columns are taken by name or by position, and may have any type
SELECT ia3_train('columns', $$SELECT label, text FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT ia3_train('columns', $$SELECT text AS a, label AS b FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT ia3_train('columns', $$SELECT label, text AS body FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT ia3_train('columns', $$SELECT id, label, text, 'unused' AS more FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT ia3_train('columns', $$SELECT text::varchar, label::name FROM shots ORDER BY id$$, steps => 3, seed => 7);
SELECT bool_and(a.digest = t.digest) AS all_the_same
  FROM ia3.adapter a, ia3.adapter t WHERE a.task = 'columns' AND t.task = 'tickets' AND t.version = 1;
CREATE TYPE kind AS ENUM ('low', 'high');
SELECT ia3_train('typed', $$SELECT text, CASE WHEN id < 4 THEN 'low' ELSE 'high' END::kind AS label FROM shots ORDER BY id$$,
                 steps => 1, seed => 1);
SELECT ia3_train('typed', $$SELECT id AS text, id % 3 AS label FROM shots ORDER BY id$$, steps => 1, seed => 1);
SELECT choices FROM ia3.task WHERE task = 'typed';

-- the query runs with the caller's search_path
CREATE SCHEMA other;
CREATE TABLE other.shots AS SELECT 'x ' || text AS text, label FROM public.shots;
SET search_path = other, public;
SELECT ia3_train('path', $$SELECT text, label FROM shots$$, steps => 1, seed => 1);
RESET search_path;
DROP TABLE other.shots;
DROP SCHEMA other;

-- templates: fields, {choices}, escapes, several of them
SELECT ia3_train('fields', $$SELECT text AS body, id AS number, label FROM shots ORDER BY id$$, steps => 2, seed => 1,
    template => ARRAY['{{{number}}} {body} Topic ({choices}):', '{body}']);
SELECT template FROM ia3.task WHERE task = 'fields';
-- a template is only text: rows that already contain the prompt give the same task
SELECT ia3_train('prompt', $$SELECT 'Ticket ' || id || ': ' || text || ' Topic:' AS text, label FROM shots ORDER BY id$$,
    steps => 3, seed => 7);
SELECT ia3_train('prompt', $$SELECT id, text, label FROM shots ORDER BY id$$, template => ARRAY['Ticket {id}: {text} Topic:'],
    steps => 3, seed => 7);
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'prompt';

-- choices may include labels that do not occur; rows may have choices of their own
SELECT ia3_train('given', $$SELECT text, label FROM shots WHERE label = 'billing'$$, steps => 1, seed => 1,
    choices => ARRAY['other', 'billing']);
SELECT ia3_train('own', $$SELECT 'The man broke his toe. Cause?' AS text, 'He dropped a hammer.' AS label,
    ARRAY['He got a hole in his sock.', 'He dropped a hammer.'] AS choices
  UNION ALL SELECT 'It rained. Effect?', 'The street got wet.', ARRAY['The street got wet.', 'The sun rose.']$$,
    steps => 1, seed => 1);
SELECT ia3_train('mixed', $$SELECT text, label, CASE WHEN id = 1 THEN ARRAY[label, 'weather'] END AS choices FROM shots ORDER BY id$$,
    steps => 1, seed => 1);
SELECT task, choices FROM ia3.task WHERE task IN ('given', 'own', 'mixed') ORDER BY task;

-- starting from another version
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id$$, steps => 2, seed => 1, init => 'tickets@2');
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id$$, steps => 2, seed => 1, init => 'tickets');
SELECT ia3_train('child', $$SELECT text, label FROM shots ORDER BY id$$, steps => 2, seed => 1, init => 'tickets');
SELECT ia3_train('child', $$SELECT text, label FROM shots ORDER BY id$$, steps => 2, seed => 1, init => 'none');
SELECT task, version, parent_version, recipe ->> 'init' AS init FROM ia3.adapter
 WHERE task = 'child' OR task = 'tickets' AND version > 3 ORDER BY task, version;
-- a learning rate too small to change anything gives the vectors that training started from
SELECT ia3_train('still', $$SELECT text, label FROM shots$$, steps => 2, learning_rate => 1e-9, init => 'tickets');
SELECT a.digest = b.digest AS same FROM ia3.adapter a, ia3.adapter b
 WHERE a.task = 'still' AND b.task = 'tickets' AND b.version = 5;

-- options
SELECT ia3_train('options', $$SELECT text, label FROM shots ORDER BY id$$, steps => 2, seed => 1, batch_size => 4,
    learning_rate => 1e-2, warmup_ratio => 0.5, lm_weight => 2, unlikelihood_weight => 0.5, length_norm_weight => 0,
    dropout => 0, loss_averaging => 'example', backbone => 'default');
SELECT recipe - '{query,device,dtype,choices,template,init}'::text[] FROM ia3.adapter WHERE task = 'options';
SELECT ia3_train('options', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1, batch_size => NULL,
    learning_rate => NULL, seed => NULL, activate => NULL, loss_averaging => NULL, init => NULL);

-- without activation the active version stays as it is
SELECT ia3_train('tickets', $$SELECT text, label || '!' FROM shots$$, steps => 1, activate => false,
    template => ARRAY['Inactive: {text}']);
SELECT active_version, next_version, template, choices FROM ia3.task WHERE task = 'tickets';
SELECT ia3_train('inactive', $$SELECT text, label FROM shots$$, steps => 1, activate => false);
SELECT active_version FROM ia3.task WHERE task = 'inactive';
SELECT ia3_predict('inactive', 'a text');
SELECT ia3_predict('inactive@1', 'a text') IS NOT NULL AS pinned;

-- a rollback leaves nothing; the locks of the query are released before training starts
BEGIN;
SELECT ia3_train('gone', $$SELECT text, label FROM shots$$, steps => 1);
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'shots'::regclass;
SELECT current_setting('transaction_read_only');
SELECT count(*) FROM ia3.adapter WHERE task = 'gone';
ROLLBACK;
SELECT count(*) FROM ia3.task WHERE task = 'gone';
BEGIN;
SAVEPOINT s;
SELECT ia3_train('tickets', $$SELECT text, label FROM shots$$, steps => 1);
ROLLBACK TO s;
SELECT active_version, next_version FROM ia3.task WHERE task = 'tickets';
COMMIT;
-- an error in the query leaves the transaction usable for its handler
DO $$
BEGIN
    PERFORM ia3_train('tickets', 'SELECT text, (1 / 0)::text FROM shots');
EXCEPTION WHEN division_by_zero THEN
    INSERT INTO shots VALUES (7, 'handled', 'access');
END $$;
SELECT text FROM shots WHERE id = 7;

SELECT count(*) AS trainings_under_way FROM ia3_stat_progress_train;

-- errors of the engine are raised
SELECT ia3_train('alike', $$SELECT text, label || repeat(' ', id) FROM shots$$, steps => 1);
SELECT ia3_train('blank', $$SELECT text, CASE WHEN id = 1 THEN ' ' ELSE label END FROM shots ORDER BY id$$, steps => 1);
SET ia3.max_input_tokens = 16;
SELECT ia3_train('long', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1,
    template => ARRAY['{text}' || repeat(' and so on', 20)]);
RESET ia3.max_input_tokens;

SELECT ia3_drop(task) FROM ia3.task;
SELECT count(*) FROM ia3.adapter;
DROP TYPE kind;
DROP TABLE shots;
