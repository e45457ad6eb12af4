-- Pre-training: one adapter from many tasks, its checkpoints, and starting from it.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE mixture (id int GENERATED ALWAYS AS IDENTITY, task text, premise text, hypothesis text, text text DEFAULT '', label text, choices text[]);
INSERT INTO mixture (task, premise, hypothesis, label, choices) VALUES
    ('nli', 'A man sleeps.', 'A man is awake.', 'No', '{Yes,No}'), ('nli', 'Two dogs run.', 'Animals move.', 'Yes', '{Yes,No}'),
    ('nli', 'It rains.', 'The street is wet.', 'Yes', '{Yes,No}'), ('nli', 'She eats.', 'Nobody eats.', 'No', '{Yes,No}');
INSERT INTO mixture (task, text, label) VALUES
    ('topic', 'I was charged twice', 'billing'), ('topic', 'cannot log in', 'access'), ('topic', 'reset my password', 'access'),
    ('completion', 'The sun rises in the', 'east'), ('completion', 'Two and two are', 'four'), ('completion', 'Ice is', 'cold');
\set templates '{"nli": ["{premise} Does this mean that {hypothesis} ({choices})", "{premise} So: {hypothesis}"], "topic": "Topic of {text}:", "completion": "{text}"}'

-- without checkpoints it is an ordinary transaction
BEGIN;
CALL ia3_pretrain('whole', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    seed => 5, checkpoint_every => 0, dropout => 0.1);
COMMIT;
SELECT version, active, examples, recipe ->> 'steps' AS steps, recipe ->> 'batch_size' AS batch_size,
       recipe ->> 'learning_rate' AS learning_rate, recipe ->> 'lm_weight' AS lm, recipe ->> 'unlikelihood_weight' AS unlikelihood,
       recipe ->> 'length_norm_weight' AS length_norm, recipe -> 'tasks' AS tasks, recipe ->> 'init' AS init
  FROM ia3.adapters WHERE task = 'whole';
SELECT jsonb_pretty(recipe -> 'templates') FROM ia3.adapters WHERE task = 'whole';
SELECT metrics ->> 'steps' AS steps, jsonb_array_length(metrics -> 'loss_curve') AS points, loss > 0 AS loss,
       metrics ->> 'unlikelihood_loss' AS unlikelihood, metrics ->> 'truncated' AS truncated FROM ia3.adapters WHERE task = 'whole';
SELECT template, choices FROM ia3.task WHERE task = 'whole';

-- in segments: the same vectors and the same curve; the checkpoint is deleted at the end
CALL ia3_pretrain('pieces', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    seed => 5, checkpoint_every => 6, dropout => 0.1);
SELECT a.digest = b.digest AS same, a.metrics -> 'loss_curve' = b.metrics -> 'loss_curve' AS same_curve, a.metrics ->> 'steps' AS steps
  FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'whole' AND b.task = 'pieces';
SELECT count(*) FROM ia3.checkpoint;

-- interrupted and resumed: again the same vectors
CREATE FUNCTION interrupt() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF NEW.step = 12 THEN RAISE 'power cut'; END IF; RETURN NEW; END $$;
CREATE TRIGGER interrupt BEFORE INSERT OR UPDATE ON ia3.checkpoint FOR EACH ROW EXECUTE FUNCTION interrupt();
\set VERBOSITY terse
CALL ia3_pretrain('resumed', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    seed => 5, checkpoint_every => 4, dropout => 0.1);
\set VERBOSITY default
SELECT task, step, octet_length(state) > 1000 AS state, seconds > 0 AS seconds, created_by = current_user AS by_me FROM ia3.checkpoint;
SELECT task, active_version FROM ia3.task WHERE task = 'resumed';
\set VERBOSITY terse
CALL ia3_pretrain('earlier', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    seed => 5, checkpoint_every => 4, dropout => 0.1, truncate => 'end');
\set VERBOSITY default
DROP TRIGGER interrupt ON ia3.checkpoint;
-- a run with another recipe or other rows is not resumed by mistake
CALL ia3_pretrain('resumed', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 30, batch_size => 4,
    learning_rate => 1e-4, checkpoint_every => 4, dropout => 0.1);
CALL ia3_pretrain('resumed', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    seed => 6, checkpoint_every => 4, dropout => 0.1);
UPDATE mixture SET label = 'hot' WHERE label = 'cold';
CALL ia3_pretrain('resumed', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    checkpoint_every => 4, dropout => 0.1);
UPDATE mixture SET label = 'cold' WHERE label = 'hot';
SET client_min_messages = notice;
-- the seed is the one of the checkpoint; checkpoint_every may change
CALL ia3_pretrain('resumed', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    checkpoint_every => 7, dropout => 0.1);
SET client_min_messages = warning;
SELECT a.digest = b.digest AS same, b.recipe = a.recipe AS same_recipe, jsonb_array_length(b.metrics -> 'loss_curve') AS points
  FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'whole' AND b.task = 'resumed';
SELECT task, step FROM ia3.checkpoint;
-- a checkpoint from before there was truncate is one that truncated at the end; a task takes its checkpoint to a new name
UPDATE ia3.checkpoint SET recipe = recipe - 'truncate' WHERE task = 'earlier';
SELECT ia3_rename('earlier', 'later');
CALL ia3_pretrain('later', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    checkpoint_every => 4, dropout => 0.1);
CALL ia3_pretrain('later', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 20, batch_size => 4,
    checkpoint_every => 4, dropout => 0.1, truncate => 'end');
SELECT a.digest = b.digest AS same, a.recipe ->> 'truncate' AS whole, b.recipe ->> 'truncate' AS later
  FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'whole' AND b.task = 'later';
SELECT count(*) FROM ia3.checkpoint;

-- starting from a pre-trained task, and pre-training that starts from another task
SELECT ia3_train('tickets', $$SELECT text, label FROM mixture WHERE task = 'topic' ORDER BY id$$, steps => 2, seed => 1, init => 'whole');
SELECT recipe ->> 'init' AS init FROM ia3.adapters WHERE task = 'tickets';
CALL ia3_pretrain('whole', 'SELECT * FROM mixture ORDER BY id', templates => :'templates', steps => 3, seed => 5, init => 'whole',
    checkpoint_every => 2);
SELECT version, active, parent_version FROM ia3.adapters WHERE task = 'whole' ORDER BY version;
-- only the language modeling loss is used, as by ia3_train with the other weights at zero and the labels as the only choices
CALL ia3_pretrain('lm', $$SELECT task, text, label FROM mixture WHERE task = 'topic' ORDER BY id$$, template => ARRAY['{text}'],
    steps => 5, batch_size => 3, seed => 9, dropout => 0, checkpoint_every => 0);
SELECT ia3_train('lm', $$SELECT text, label, ARRAY[label] AS choices FROM mixture WHERE task = 'topic' ORDER BY id$$, steps => 5, batch_size => 3,
    seed => 9, dropout => 0, learning_rate => 3e-4, unlikelihood_weight => 0, length_norm_weight => 0);
SELECT count(DISTINCT digest) AS different, count(*) FROM ia3.adapter WHERE task = 'lm';

-- errors
\set VERBOSITY terse
CALL ia3_pretrain(NULL, 'SELECT * FROM mixture');
CALL ia3_pretrain('p', NULL);
CALL ia3_pretrain('p@1', 'SELECT * FROM mixture');
\set VERBOSITY default
CALL ia3_pretrain('p', 'SELECT text, label FROM mixture');
\set VERBOSITY terse
CALL ia3_pretrain('p', 'SELECT NULL::text AS task, text, label FROM mixture', steps => 1);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{"nli": "{premise}"}', steps => 1);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '["{premise}"]');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{"nli": {"a": "{premise}"}}');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{"nli": [1]}');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{"nli": []}');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{}');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => '{"nli": "{premise"}');
CALL ia3_pretrain('p', 'SELECT * FROM mixture', templates => :'templates', template => ARRAY['{text}']);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', template => ARRAY['{text} {choices}'], steps => 1);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', checkpoint_every => -1);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', steps => 0);
CALL ia3_pretrain('p', 'SELECT * FROM mixture', init => 'nobody');
\set VERBOSITY default
BEGIN;
CALL ia3_pretrain('p', 'SELECT * FROM mixture', steps => 20, checkpoint_every => 10);
ROLLBACK;
BEGIN READ ONLY;
CALL ia3_pretrain('p', 'SELECT * FROM mixture', steps => 1);
ROLLBACK;
-- PL/pgSQL that may commit can call it with checkpoints
DO $$BEGIN CALL ia3_pretrain('done', 'SELECT task, text, label FROM mixture ORDER BY id', steps => 4, checkpoint_every => 2, seed => 1); END $$;
SELECT task, version FROM ia3.adapters WHERE task = 'done';
SELECT count(*) FROM ia3.task WHERE task = 'p';

-- privileges: it needs a grant; a checkpoint belongs to the owner of the task, and only the procedure writes it
CREATE ROLE regress_ia3_alice;
CREATE ROLE regress_ia3_bob;
GRANT SELECT ON mixture TO regress_ia3_alice, regress_ia3_bob;
SET ROLE regress_ia3_alice;
CALL ia3_pretrain('hers', 'SELECT * FROM mixture', steps => 1);
RESET ROLE;
GRANT EXECUTE ON PROCEDURE ia3_pretrain TO regress_ia3_alice, regress_ia3_bob;
CREATE TRIGGER interrupt BEFORE INSERT OR UPDATE ON ia3.checkpoint FOR EACH ROW EXECUTE FUNCTION interrupt();
SET ROLE regress_ia3_alice;
\set VERBOSITY terse
CALL ia3_pretrain('hers', 'SELECT * FROM mixture ORDER BY id', steps => 20, checkpoint_every => 6, seed => 1);
\set VERBOSITY default
SELECT task, step, created_by FROM ia3.checkpoint;
UPDATE ia3.checkpoint SET step = 3;
INSERT INTO ia3.checkpoint SELECT 'done', step, recipe, backbone_digest, state, losses, seconds FROM ia3.checkpoint;
SELECT ia3_grant('hers', 'regress_ia3_bob');
SET ROLE regress_ia3_bob;
SELECT task FROM ia3.task;
SELECT count(*) FROM ia3.checkpoint;
CALL ia3_pretrain('hers', 'SELECT * FROM mixture ORDER BY id', steps => 20, checkpoint_every => 6);
CALL ia3_pretrain('done', 'SELECT * FROM mixture ORDER BY id', steps => 20, checkpoint_every => 6);
DELETE FROM ia3.checkpoint;
SET ROLE regress_ia3_alice;
SELECT count(*) FROM ia3.checkpoint;
-- a checkpoint is overwritten by a new run, or deleted with the task
CALL ia3_pretrain('hers', 'SELECT * FROM mixture ORDER BY id', steps => 2, checkpoint_every => 1, resume => false);
SELECT version, created_by FROM ia3.adapters WHERE task = 'hers';
SELECT count(*) FROM ia3.checkpoint;
\set VERBOSITY terse
CALL ia3_pretrain('hers', 'SELECT * FROM mixture ORDER BY id', steps => 20, checkpoint_every => 6, seed => 1);
\set VERBOSITY default
SELECT task, step FROM ia3.checkpoint;
SELECT ia3_drop('hers');
RESET ROLE;
SELECT count(*) FROM ia3.checkpoint;

SELECT ia3_drop(task) FROM ia3.task;
DROP TRIGGER interrupt ON ia3.checkpoint;
DROP FUNCTION interrupt;
REVOKE ALL ON PROCEDURE ia3_pretrain FROM regress_ia3_alice, regress_ia3_bob;
DROP TABLE mixture;
DROP ROLE regress_ia3_alice, regress_ia3_bob;
