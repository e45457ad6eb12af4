-- early_stopping: training that ends when its loss is flat, or after as many steps as cross-validation has found best.
SET client_min_messages = warning;

CREATE TABLE early_rows AS
SELECT i AS id, CASE WHEN i % 3 = 0 THEN 'the app crashes again' ELSE 'my invoice is wrong' END || ', case ' || i AS text,
       CASE WHEN i % 3 = 0 THEN 'bug' ELSE 'billing' END AS label, i AS trust
  FROM generate_series(1, 12) i;
CREATE FUNCTION early(name text, early_stopping text DEFAULT 'none', steps int DEFAULT 50, calibrate bool DEFAULT false, balanced bool DEFAULT false, ensemble int DEFAULT NULL, init text DEFAULT NULL,
                      query text DEFAULT 'TABLE early_rows ORDER BY id', warmup_ratio float8 DEFAULT 0.06, rate float8 DEFAULT 0.05)
RETURNS int LANGUAGE sql AS $$
    SELECT ia3_train('e_' || name, query, init => init, steps => steps, batch_size => 4, learning_rate => rate, warmup_ratio => warmup_ratio, dropout => 0, seed => 5, calibrate => calibrate, balanced => balanced,
                     ensemble => ensemble, weight_column => CASE WHEN balanced THEN 'trust' END, early_stopping => early_stopping)
$$;
CREATE VIEW early_versions AS
SELECT substr(task, 3) AS name, version, digest, recipe, metrics, metrics -> 'early_stopping' AS early, temperature FROM ia3.adapter WHERE task LIKE 'e\_%';

-- 'none' is the default, and changes nothing, in the recipe and in the metrics neither
SELECT early('none', steps => 10), early('null', NULL, 10), ia3_train('e_default', 'TABLE early_rows ORDER BY id', steps => 10, batch_size => 4, learning_rate => 0.05, dropout => 0, seed => 5);
SELECT count(DISTINCT digest) AS digests, bool_or(recipe ? 'early_stopping' OR metrics ? 'early_stopping') AS recorded FROM early_versions WHERE name IN ('none', 'null', 'default');

-- 'loss': the end is recorded, and is the same each time; with so low a rate the loss does not fall
SELECT early('loss', 'loss', rate => 1e-5), early('whole', rate => 1e-5);
CALL ia3_train_task('e_called', 'TABLE early_rows ORDER BY id', steps => 50, batch_size => 4, learning_rate => 1e-5, dropout => 0, seed => 5, early_stopping => 'loss');
SELECT count(DISTINCT digest) AS digests, bool_and(recipe ->> 'early_stopping' = 'loss' AND recipe ->> 'steps' = '50') AS recorded,
       bool_and((metrics ->> 'steps')::int IN (33, 43)) AS ended, bool_and(early ->> 'max_steps' = '50' AND early -> 'steps' -> 0 = metrics -> 'steps') AS steps,
       min(early ->> 'ended_by') AS ended_by, bool_and(jsonb_array_length(metrics -> 'loss_curve')::text = metrics ->> 'steps') AS curve
  FROM early_versions WHERE name IN ('loss', 'called');
SELECT (SELECT digest FROM early_versions WHERE name = 'loss') <> (SELECT digest FROM early_versions WHERE name = 'whole') AS differs;
-- a loss that still falls does not end it
SELECT ia3_train('e_slow', 'TABLE early_rows ORDER BY id', steps => 34, batch_size => 4, dropout => 0, seed => 5, early_stopping => 'loss'),
       ia3_train('e_slow', 'TABLE early_rows ORDER BY id', steps => 34, batch_size => 4, dropout => 0, seed => 5);
SELECT count(DISTINCT digest) AS digests, count(early) AS early, min(early ->> 'ended_by') AS ended_by, min(metrics ->> 'steps') AS steps FROM early_versions WHERE name = 'slow';
-- members of an ensemble end one by one
SELECT early('members', 'loss', ensemble => 2, rate => 1e-5);
SELECT jsonb_array_length(early -> 'steps') AS members, early -> 'steps' -> 0 = (SELECT metrics -> 'steps' FROM early_versions WHERE name = 'loss') AS first,
       greatest(early -> 'steps' -> 0, early -> 'steps' -> 1) = metrics -> 'steps' AS most FROM early_versions WHERE name = 'members';
-- so do the folds of a cross-validation, and those of a calibration
CREATE TABLE early_folds AS SELECT * FROM ia3_cross_predict('TABLE early_rows ORDER BY id', folds => 3, id_column => 'id', steps => 50, batch_size => 4, learning_rate => 1e-5, dropout => 0, seed => 5, early_stopping => 'loss');
SELECT early('fold', 'loss', rate => 1e-5, query => $$SELECT e.* FROM early_rows e JOIN early_folds f ON f.row_id = e.id::text WHERE fold <> 1 ORDER BY e.id$$);
SELECT count(*) AS rows, bool_and(abs((f.probabilities ->> c.choice)::float8 - c.probability) < 1e-9) AS same
  FROM early_folds f JOIN early_rows e ON f.row_id = e.id::text, ia3_classify('e_fold', e.text) c WHERE fold = 1;
SELECT early('calibrated', 'loss', calibrate => true, rate => 1e-5), ia3_calibrate('e_loss', 'TABLE early_rows ORDER BY id');
SELECT count(DISTINCT digest) AS digests, count(DISTINCT temperature) AS temperatures, count(*) FROM early_versions WHERE temperature IS NOT NULL;

-- 'folds': the candidates are measured as ia3_cross_validate does it, the least log loss is chosen, and the version is that of ia3_train with these steps
SELECT early('folds', 'folds', 16);
SELECT early -> 'max_steps' AS max_steps, early -> 'folds' AS folds, array(SELECT jsonb_object_keys(early -> 'candidates')) AS candidates, recipe ->> 'steps' AS steps, recipe -> 'early_stopping' AS early_stopping,
       recipe -> 'chosen_steps' = metrics -> 'steps' AND early -> 'chosen_steps' = metrics -> 'steps' AS chosen, (early ->> 'seconds')::float8 > 0 AS seconds,
       early ->> 'chosen_steps' = (SELECT key FROM jsonb_each(early -> 'candidates') ORDER BY (value ->> 'log_loss')::float8, key::int LIMIT 1) AS least
  FROM early_versions WHERE name = 'folds';
SELECT metrics -> 'steps' AS chosen FROM early_versions WHERE name = 'folds' \gset
SELECT early('chosen', steps => :chosen);
SELECT count(DISTINCT digest) AS digests FROM early_versions WHERE name IN ('folds', 'chosen');
SELECT c.key AS steps, bool_and(abs((c.value ->> 'log_loss')::float8 - v.log_loss) < 1e-9) AS log_loss, bool_and((c.value ->> 'accuracy')::float8 = v.accuracy) AS accuracy
  FROM early_versions e, jsonb_each(early -> 'candidates') c,
       ia3_cross_validate('TABLE early_rows ORDER BY id', folds => 5, steps => c.key::int, batch_size => 4, learning_rate => 0.05, dropout => 0, seed => 5) v WHERE e.name = 'folds' AND v.repeat IS NULL GROUP BY c.key ORDER BY c.key::int;
-- where nothing can be learned, fewer steps are better
SELECT early('noise', 'folds', 16, rate => 0.3, query => $$SELECT text, CASE WHEN id IN (1, 2, 4, 6, 9, 11) THEN 'bug' ELSE 'billing' END AS label FROM early_rows ORDER BY id$$);
SELECT (metrics ->> 'steps')::int < 16 AS fewer, early ->> 'chosen_steps' = (SELECT key FROM jsonb_each(early -> 'candidates') ORDER BY (value ->> 'log_loss')::float8, key::int LIMIT 1) AS least
  FROM early_versions WHERE name = 'noise';
-- calibration costs no further runs then, and is that of a version with these steps, whose vectors are the same with and without it
SELECT early('folds_calibrated', 'folds', 16, calibrate => true), early('chosen', steps => :chosen, calibrate => true), ia3_calibrate('e_folds', 'TABLE early_rows ORDER BY id');
SELECT count(DISTINCT digest) AS digests, count(DISTINCT temperature) AS temperatures, count(*) FROM early_versions WHERE name IN ('folds', 'folds_calibrated', 'chosen') AND temperature IS NOT NULL;
-- with weights, ensembles, a version to start from, and other methods
SELECT early('all', 'folds', 9, true, true, 2, 'e_members');
SELECT metrics -> 'steps' AS chosen FROM early_versions WHERE name = 'all' \gset
SELECT early('all', 'none', :chosen, true, true, 2, 'e_members');
SELECT count(DISTINCT digest) AS digests, count(DISTINCT temperature) AS temperatures, count(*), count(early) AS early FROM early_versions WHERE name = 'all';
SELECT ia3_train('e_lora', 'TABLE early_rows', steps => 8, method => 'lora', early_stopping => 'folds', seed => 1, activate => false);
CALL ia3_train_task('e_called', 'TABLE early_rows', steps => 8, early_stopping => 'folds', seed => 1);
SELECT version, metrics -> 'early_stopping' -> 'candidates' ?& '{1,2,4,8}' AS candidates FROM early_versions WHERE name = 'called' ORDER BY 1;
-- rows with choices of their own
SELECT ia3_train('e_own', $$SELECT text, label, CASE id WHEN 1 THEN '{billing,bug,fraud}' ELSE '{bug,billing}' END::text[] AS choices FROM early_rows$$, steps => 8, early_stopping => 'folds', seed => 1);
SELECT early -> 'candidates' ?& '{1,2,4,8}' AS candidates FROM early_versions WHERE name = 'own';
-- copies and exports have it all
SELECT ia3_copy('e_folds', 'e_copy'), ia3_import_task(ia3_export_task('e_folds'), 'e_again_folds');
SELECT count(DISTINCT (recipe, metrics)) AS same FROM early_versions WHERE name IN ('folds', 'copy', 'again_folds') AND temperature IS NULL;
-- other trainers have the argument, too
SELECT n FROM ia3_cross_validate('TABLE early_rows', folds => 2, steps => 34, batch_size => 2, seed => 1, early_stopping => 'loss');
SELECT size, n FROM ia3_learning_curve('TABLE early_rows', '{4,6}', folds => 2, steps => 34, batch_size => 2, seed => 1, early_stopping => 'loss');

-- mistakes
SELECT early('bad', '');
SELECT early('bad', 'Loss');
SELECT early('bad', 'patience');
SELECT early('bad', 'loss', 32);
SELECT early('bad', 'loss', 100, warmup_ratio => 1);
SELECT early('bad', 'folds', 7);
SELECT early('bad', 'folds', 0);
SELECT early('bad', 'folds', 2000000);
SELECT early('bad', 'folds', query => 'SELECT * FROM early_rows LIMIT 4');
SELECT early('bad', 'folds', query => 'SELECT * FROM early_rows WHERE false');
SELECT early('bad', 'folds', query => $$SELECT text, 'bug' AS label FROM early_rows$$);
CALL ia3_train_task('e_bad', 'TABLE early_rows', early_stopping => 'never');
SELECT ia3_cross_predict('TABLE early_rows', early_stopping => 'folds');
SELECT ia3_cross_validate('TABLE early_rows', early_stopping => 'folds');
SELECT ia3_learning_curve('TABLE early_rows', '{4}', folds => 2, early_stopping => 'folds');
SELECT ia3_cross_predict('TABLE early_rows', early_stopping => 'x');
SELECT ia3_cross_validate('TABLE early_rows', steps => 10, early_stopping => 'loss');
CALL ia3_pretrain('e_bad', 'TABLE early_rows', early_stopping => 'loss');
-- cancelled between the runs or in one; no progress is left
SET statement_timeout = '400ms';
SELECT early('bad', 'folds', 100000);
RESET statement_timeout;
SELECT count(*) FROM ia3_stat_progress_train;
SELECT count(*) FROM ia3.task WHERE task = 'e_bad';

SELECT count(ia3_drop(task)) FROM ia3.task WHERE task LIKE 'e\_%';
DROP VIEW early_versions;
DROP FUNCTION early;
DROP TABLE early_rows, early_folds;
