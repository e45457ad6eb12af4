-- Calibration: temperatures from rows that had not been seen.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
CREATE TABLE cal_shots (id int, text text, label text);
INSERT INTO cal_shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access'),
    (7, 'the app closes when I open it', 'bug'), (8, 'the page stays blank', 'bug'),
    (9, 'the payment failed again', 'billing'), (10, 'the screen is black', 'bug'),
    (11, 'two factor code never arrives', 'access'), (12, 'saving shows an error', 'bug');
CREATE VIEW cal_rows AS SELECT text, label FROM cal_shots ORDER BY id;

SELECT ia3_train('cal', 'TABLE cal_rows', steps => 12, learning_rate => 0.01, seed => 41);
SELECT ia3_train('cal', 'TABLE cal_rows', steps => 12, learning_rate => 0.01, seed => 41, calibrate => true);
-- the vectors are those of a run without calibration
SELECT count(DISTINCT digest), count(temperature), bool_and(temperature > 0 AND temperature <> 1) FROM ia3.adapter WHERE task = 'cal';
-- every row was scored by the run that has not seen it: these are the predictions of ia3_cross_predict
CREATE VIEW cal_scores AS SELECT task, version, row_number, fold, label, c::int AS choice, score
  FROM ia3.adapter_scores, unnest(scores) WITH ORDINALITY s(score, c);
CREATE TABLE cal_out AS SELECT * FROM ia3_cross_predict('TABLE cal_rows', steps => 12, learning_rate => 0.01, seed => 41);
SELECT count(*), bool_and(s.fold = o.fold) AS folds,
       bool_and((SELECT max(abs(p - (o.probabilities ->> ('{billing,access,bug}'::text[])[choice])::float8))
                   FROM (SELECT choice, exp(score) / sum(exp(score)) OVER () AS p FROM cal_scores c
                          WHERE (c.task, c.version, c.row_number) = ('cal', 2, s.row_number)) x) < 1e-12) AS probabilities,
       bool_and(o.label = ('{billing,access,bug}'::text[])[s.label]) AS labels
  FROM ia3.adapter_scores s JOIN cal_out o USING (row_number) WHERE s.task = 'cal' AND s.version = 2;

-- the temperature is where the losses, plus half the square of its logarithm, are least
CREATE FUNCTION cal_loss(name text, v int, t float8, left_out int DEFAULT 0) RETURNS float8 LANGUAGE sql AS $$
    SELECT sum(loss) FROM (SELECT ln(sum(exp(score / t))) - max(score / t) FILTER (WHERE choice = label) AS loss
                             FROM cal_scores WHERE task = name AND version = v AND fold <> left_out GROUP BY row_number) x
$$;
CREATE FUNCTION cal_fit(name text, v int, left_out int DEFAULT 0) RETURNS float8 LANGUAGE sql AS $$
    SELECT exp(g) FROM generate_series(-2995, 2995) i, LATERAL (SELECT i / 1000.0::float8 AS g) x ORDER BY cal_loss(name, v, exp(g), left_out) + g * g / 2 LIMIT 1
$$;
SELECT abs(ln(temperature) - ln(cal_fit(task, version))) < 0.001 AS fitted FROM ia3.adapter WHERE task = 'cal' AND version = 2;
-- what it is worth is measured with temperatures from the other folds
SELECT abs(log_loss_before - cal_loss(task, version, 1) / 12) < 1e-9 AS before,
       abs(log_loss_after - (SELECT sum(cal_loss(task, version, t) - cal_loss(task, version, t, f))
                               FROM generate_series(1, 5) f, LATERAL (SELECT cal_fit(task, version, f) AS t) x) / 12) < 1e-3 AS after,
       log_loss_after - cal_loss(task, version, temperature) / 12 > 1e-2 AS not_of_these_rows
  FROM ia3.adapters WHERE task = 'cal' AND version = 2;
SELECT abs(calibration_error_before - e) < 1e-9 AS error_before, calibration_error_after BETWEEN 0 AND 1 AS error_after,
       abs(calibration_error_after - e) > 1e-6 AS differ
  FROM ia3.adapters,
       (SELECT sum(abs(right_ones - probabilities)) / 12 AS e
          FROM (SELECT sum((predicted = label)::int) AS right_ones, sum(probability) AS probabilities
                  FROM (SELECT *, row_number() OVER (ORDER BY probability, row_number) - 1 AS k FROM cal_out) o
                 GROUP BY CASE WHEN k < 4 THEN k / 2 ELSE k - 2 END) bins) x
 WHERE task = 'cal' AND version = 2;
SELECT recipe ->> 'calibrate' AS calibrate, metrics -> 'calibration' -> 'rows' AS rows, metrics -> 'calibration' -> 'folds' AS folds
  FROM ia3.adapters WHERE task = 'cal' ORDER BY version;

-- probabilities use it, whatever the choices; scores and ranks remain
SELECT count(*), bool_and(a.score = b.score) AS scores, bool_and(a.choice = b.choice) AS choices, bool_and(a.probability <> b.probability) AS differ,
       max(abs(b.probability - b.p)) < 1e-12 AS softmax
  FROM cal_shots s, ia3_classify('cal@1', s.text) a,
       LATERAL (SELECT c.*, exp(score / temperature) / sum(exp(score / temperature)) OVER () AS p
                  FROM ia3_classify('cal@2', s.text) c, ia3.adapter d WHERE d.task = 'cal' AND d.version = 2) b
 WHERE a.rank = b.rank;
SELECT max(abs(c.probability - p)) < 1e-12 AS other_choices
  FROM (SELECT c.*, exp(score / temperature) / sum(exp(score / temperature)) OVER () AS p
          FROM ia3_classify('cal@2', 'the bill is wrong', '{invoice,crash}') c, ia3.adapter WHERE task = 'cal' AND version = 2) c;
-- so do thresholds, in rows that are read ahead, and evaluations
CREATE VIEW cal_best AS SELECT id, text, label, (SELECT probability FROM ia3_classify('cal@1', text) WHERE rank = 1) AS before,
                               (SELECT probability FROM ia3_classify('cal@2', text) WHERE rank = 1) AS after FROM cal_shots;
SELECT (min(after) + max(after)) / 2 AS middle, greatest(min(before), min(after)) AS low, least(max(before), max(after)) AS high FROM cal_best \gset
SELECT count(*), bool_and((ia3_predict('cal@2', text, min_probability => :middle) IS NULL) = (after < :middle)) AS calibrated,
       bool_and((ia3_predict('cal@1', text, min_probability => :middle) IS NULL) = (before < :middle)) AS uncalibrated FROM cal_best;
SELECT bool_and((w IS NULL) = (after < :middle)) AS windows FROM (SELECT after, ia3_predict_window('cal@2', text, min_probability => :middle) OVER () AS w FROM cal_best) x;
SELECT answered = (SELECT count(*) FROM cal_best WHERE after >= :middle) AS answered
  FROM ia3_evaluate('cal@2', 'TABLE cal_rows', min_probability => :middle);
SELECT max(abs(threshold - after)) < 1e-12 AS thresholds
  FROM (SELECT threshold, row_number() OVER (ORDER BY threshold) AS k FROM ia3_coverage_curve('cal@2', 'TABLE cal_rows')) t
  JOIN (SELECT after, row_number() OVER (ORDER BY after) AS k FROM cal_best) b USING (k);
-- of the active version, as it changes within a transaction
BEGIN;
PREPARE cal_ask AS SELECT (SELECT probability FROM ia3_classify('cal', text) WHERE rank = 1) = after AS after FROM cal_best WHERE id = 1;
EXECUTE cal_ask;
SELECT ia3_activate('cal', 1);
EXECUTE cal_ask;
ROLLBACK;
EXECUTE cal_ask;

-- the procedure; an ensemble
CALL ia3_train_task('called', 'TABLE cal_rows', steps => 12, learning_rate => 0.01, seed => 41, calibrate => true, activate => false);
SELECT ia3_train('called', 'TABLE cal_rows', steps => 2, ensemble => 2, method => 'lora', seed => 1, calibrate => true);
SELECT c.version, c.active, c.temperature = a.temperature AS same, c.digest = a.digest AS vectors, c.temperature IS NOT NULL AS calibrated, c.ensemble
  FROM ia3.adapters c, ia3.adapters a WHERE c.task = 'called' AND a.task = 'cal' AND a.version = 2 ORDER BY 1;
-- the procedure scores with the input length that it began with, although its commit resets it
CREATE VIEW cal_long AS SELECT repeat(text || ' ', 5) AS text, label FROM cal_rows;
DO $$
DECLARE v int;
BEGIN
    SET LOCAL ia3.max_input_tokens = 16;
    CALL ia3_train_task('short', 'TABLE cal_long', steps => 1, seed => 1, calibrate => true, version => v);
END $$;
SET ia3.max_input_tokens = 16;
SELECT ia3_train('short', 'TABLE cal_long', steps => 1, seed => 1, calibrate => true);
RESET ia3.max_input_tokens;
SELECT ia3_train('short', 'TABLE cal_long', steps => 1, seed => 1, calibrate => true);
SELECT version, scores = (SELECT scores FROM ia3.adapter_scores WHERE (task, version, row_number) = ('short', 2, 1)) AS same
  FROM ia3.adapter_scores WHERE task = 'short' AND row_number = 1 ORDER BY 1;
-- NULL is false
SELECT ia3_train('called', 'TABLE cal_rows', steps => 1, calibrate => NULL);
SELECT temperature IS NULL AS uncalibrated FROM ia3.adapters WHERE task = 'called' AND active;
-- rows with choices of their own
SELECT ia3_train('own', $$SELECT 'text ' || i AS text, 'y' AS label, CASE WHEN i % 2 = 0 THEN ARRAY['x', 'y'] ELSE ARRAY['y', 'z', 'x ' || i] END AS choices
    FROM generate_series(1, 6) i$$, steps => 1, seed => 1, calibrate => true);
SELECT row_number, label, cardinality(scores) FROM ia3.adapter_scores WHERE task = 'own' ORDER BY 1;
-- the progress is that of all six runs
SET client_min_messages = notice;
SELECT ia3_train('once', $$SELECT text, label FROM cal_rows UNION ALL SELECT 'somebody used my card', 'fraud'$$, steps => 1, seed => 1, calibrate => true);
SET client_min_messages = warning;

-- a version that exists: the same vectors, and what training with calibrate would have given; it is not active, since the other is not
SELECT ia3_calibrate('cal@1', 'TABLE cal_rows');
SELECT a.version, a.active, a.digest = b.digest AS vectors, a.temperature = b.temperature AS temperature, a.query, a.parent_version, a.examples,
       a.recipe - b.keys AS recipe, a.metrics -> 'calibration' = b.metrics -> 'calibration' AS measures, a.metrics -> 'loss' = b.metrics -> 'loss' AS loss,
       (SELECT bool_and(s.scores = z.scores AND s.fold = z.fold AND s.label = z.label) FROM ia3.adapter_scores s JOIN ia3.adapter_scores z USING (task, row_number)
         WHERE task = 'cal' AND s.version = 3 AND z.version = 2) AS scores,
       (SELECT count(DISTINCT row_hashes) FROM ia3.adapter_query WHERE task = 'cal') AS hashes
  FROM ia3.adapters a, (SELECT *, ARRAY(SELECT jsonb_object_keys(recipe)) AS keys FROM ia3.adapters WHERE task = 'cal' AND version = 2) b
 WHERE a.task = 'cal' AND a.version = 3;
-- whatever the method, its options, and the optimizer
CREATE FUNCTION cal_same(options text, rows text DEFAULT 'TABLE cal_rows') RETURNS text LANGUAGE plpgsql AS $$
DECLARE first int; second int; answer text;
BEGIN
    EXECUTE format('SELECT ia3_train(%L, %L, seed => 9007199254740993, %s)', 'same', rows, options) INTO first;
    EXECUTE format('SELECT ia3_train(%L, %L, seed => 9007199254740993, calibrate => true, activate => false, %s)', 'same', rows, options) INTO second;
    PERFORM ia3_calibrate('same', rows);
    SELECT concat_ws(' ', 'version', a.version - first, a.active, a.temperature = b.temperature, a.digest = b.digest, a.metrics -> 'calibration' = b.metrics -> 'calibration')
      INTO answer FROM ia3.adapters a JOIN ia3.adapters b USING (task) WHERE task = 'same' AND b.version = second ORDER BY a.version DESC LIMIT 1;
    RETURN answer;
END $$;
SELECT cal_same('steps => 2, method => $x$lora$x$, rank => 2, alpha => 3, targets => $x${q,wo}$x$, norms => false, ensemble => 2');
SELECT cal_same('steps => 2, template => ARRAY[$x${text} What is it?$x$, $x$Topic: {text} {choices}$x$], choices => $x${bug,access,billing,none}$x$, dropout => 0.1,
    loss_averaging => $x$example$x$, optimizer => $x$adamw$x$, weight_decay => 0.1, ema => 0.5, batch_size => 3, warmup_ratio => 0.5, lm_weight => 0.5, truncate => $x$end$x$');
SELECT cal_same('steps => 2, init => $x$cal@1$x$, unlikelihood_weight => 2, length_norm_weight => 0');
SELECT cal_same('steps => 1, method => $x$prefix$x$, prefix_length => 3');
SELECT cal_same('steps => 1, method => $x$fish$x$, keep_ratio => 0.01');
SELECT cal_same('steps => 1', $q$SELECT 'text ' || i AS text, 'y' AS label, CASE WHEN i % 2 = 0 THEN ARRAY['x', 'y'] ELSE ARRAY['y', 'z', 'x ' || i] END AS choices
    FROM generate_series(1, 6) i$q$);
-- without a recorded recipe, that of ia3_train with the seed 0 (here but for the steps); other rows than in training
CREATE FUNCTION cal_recipe(change jsonb, name text, others jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
    SELECT ia3_import_task(jsonb_set(e, '{versions}', jsonb_build_array((e #> '{versions,0}') || others || jsonb_build_object('recipe', change))), name)
      FROM ia3_export_task('cal') e
$$;
SELECT cal_recipe('{"imported": true, "steps": 2, "rendering": "jsonb", "truncate": "longest"}', 'foreign');
SELECT ia3_activate('foreign', 1);
SELECT ia3_calibrate('foreign', 'SELECT * FROM cal_rows OFFSET 2');
SELECT ia3_train('like foreign', 'SELECT * FROM cal_rows OFFSET 2', choices => '{billing,access,bug}', steps => 2, seed => 0, calibrate => true);
SELECT a.version, a.active, a.temperature = b.temperature AS same, a.digest = c.digest AS vectors, a.recipe ->> 'choices' AS choices
  FROM ia3.adapters a, ia3.adapters b, ia3.adapters c WHERE a.task = 'foreign' AND a.version = 4 AND b.task = 'like foreign' AND c.task = 'cal' AND c.version = 1;
-- prompted as the task is now; calibrated again
UPDATE ia3.task SET choices = '{billing,access,bug,other}' WHERE task = 'foreign';
SELECT ia3_calibrate('foreign', 'TABLE cal_rows');
SELECT version, active, recipe ->> 'choices' AS choices, recipe ->> 'calibrated_version' AS calibrated_version, (SELECT max(cardinality(scores)) FROM ia3.adapter_scores s
    WHERE s.task = a.task AND s.version = a.version) AS choices FROM ia3.adapters a WHERE task = 'foreign' ORDER BY 1;
-- the picture; before calibration there is one line, afterwards another beside it
SELECT xpath('count(//s:circle)', svg::xml, '{{s,http://www.w3.org/2000/svg}}') AS circles, xpath('count(//s:path)', svg::xml, '{{s,http://www.w3.org/2000/svg}}') AS paths,
       svg LIKE '%held-out%' AS held_out, regexp_replace(substring(svg FROM '>((?:not calibrated|before)[^<]*)<'), '[0-9.]+', 'n', 'g') AS says
  FROM (VALUES (1, ia3_plot_calibration('cal@2')), (2, ia3_plot_calibration('cal@2', 'TABLE cal_rows')), (3, ia3_plot_calibration('cal@1', 'TABLE cal_rows')),
               (4, ia3_plot_calibration('cal@2', $$SELECT 'one' AS text, 'bug' AS label$$))) x(i, svg) ORDER BY i;
SELECT svg LIKE format('%%log loss %s, calibration error %s<%%log loss %s, calibration error %s<%%', b, c, d, e) AS numbers
  FROM ia3_plot_calibration('cal@2') svg, (SELECT round(log_loss_before::numeric, 3) AS b, round(calibration_error_before::numeric, 3) AS c,
       round(log_loss_after::numeric, 3) AS d, round(calibration_error_after::numeric, 3) AS e FROM ia3.adapters WHERE task = 'cal' AND version = 2) x;
SELECT ia3_plot_calibration(NULL) IS NULL AS null_task, ia3_plot_calibration('cal', NULL) IS NULL AS null_query;
SELECT ia3_plot_calibration('cal@1');
SELECT ia3_plot_calibration('nobody');
SELECT ia3_plot_calibration('cal', 'SELECT 1');
SELECT ia3_plot_calibration('cal', 'SELECT * FROM cal_rows WHERE false');
SELECT ia3_calibrate(NULL, 'TABLE cal_rows');
SELECT ia3_calibrate('cal', NULL);
SELECT ia3_calibrate('nobody', 'TABLE cal_rows');
SELECT ia3_calibrate('cal@99', 'TABLE cal_rows');
SELECT ia3_calibrate('cal', 'SELECT * FROM cal_rows LIMIT 4');
SELECT ia3_calibrate('cal', 'SELECT * FROM cal_rows WHERE false');
SELECT ia3_calibrate('cal', $$SELECT text, 'x' AS label FROM cal_rows$$);
SELECT ia3_calibrate('cal', 'SELECT text AS body FROM cal_rows');
SELECT ia3_calibrate('cal', 'DELETE FROM cal_shots');
BEGIN READ ONLY;
SELECT ia3_calibrate('cal', 'TABLE cal_rows');
ROLLBACK;
UPDATE ia3.task SET active_version = NULL, choices = NULL WHERE task = 'foreign';
SELECT ia3_calibrate('foreign', 'TABLE cal_rows');
SELECT ia3_activate('foreign', 1);
UPDATE ia3.task SET choices = NULL WHERE task = 'foreign';
SELECT ia3_calibrate('foreign', 'TABLE cal_rows');
SELECT cal_recipe('{"steps": 2, "init": "gone@1", "rendering": "jsonb"}', 'orphan');
SELECT ia3_calibrate('orphan@1', 'TABLE cal_rows');
SELECT cal_recipe('{"steps": 2}', 'older');
SELECT ia3_calibrate('older@1', 'TABLE cal_rows');
SELECT cal_recipe('{"steps": 1e300, "seed": 1e300, "rendering": "jsonb"}', 'hostile');
SELECT ia3_calibrate('hostile@1', 'TABLE cal_rows');
SELECT cal_recipe('{"steps": 2, "batch_size": "many", "learning_rate": -1, "rendering": "jsonb"}', 'hostile too');
SELECT ia3_calibrate('hostile too@1', 'TABLE cal_rows');
SELECT cal_recipe('{"steps": 2, "rendering": "jsonb"}', 'elsewhere', jsonb_build_object('backbone_digest', repeat('ab', 32)));
DO $$ BEGIN PERFORM ia3_calibrate('elsewhere@1', 'TABLE cal_rows'); EXCEPTION WHEN OTHERS THEN RAISE WARNING '% %', SQLSTATE, SQLERRM; END $$;
DO $$ BEGIN PERFORM ia3_plot_calibration('elsewhere@1', 'TABLE cal_rows'); EXCEPTION WHEN OTHERS THEN RAISE WARNING '% %', SQLSTATE, SQLERRM; END $$;

-- temperature and scores are part of a task
CREATE VIEW cal_all AS SELECT task, version, temperature, (SELECT jsonb_agg(to_jsonb(s) - 'task' ORDER BY row_number) FROM ia3.adapter_scores s
    WHERE (s.task, s.version) = (a.task, a.version)) AS scores FROM ia3.adapter a;
SELECT ia3_copy('cal', 'copied');
SELECT ia3_import_task(ia3_export_task('cal'), 'imported');
SELECT c.task, count(*), bool_and((c.temperature, c.scores) IS NOT DISTINCT FROM (a.temperature, a.scores)) AS same, count(c.scores) AS scores
  FROM cal_all c JOIN cal_all a USING (version) WHERE c.task IN ('copied', 'imported') AND a.task = 'cal' GROUP BY 1 ORDER BY 1;
SELECT ia3_rename('copied', 'renamed');
SELECT task, count(*) FROM ia3.adapter_scores WHERE task IN ('copied', 'renamed') GROUP BY 1;
SELECT ia3_activate('renamed', 1);
SELECT ia3_drop('renamed', 2);
SELECT count(*) FROM ia3.adapter_scores WHERE task = 'renamed';
SELECT ia3_average('renamed', '{cal@1,cal@2}');
SELECT temperature IS NULL AS uncalibrated FROM ia3.adapters WHERE task = 'renamed' AND active;
-- a version is immutable, and nobody adds scores
UPDATE ia3.adapter SET temperature = 2 WHERE task = 'cal' AND version = 2;
CREATE ROLE regress_ia3_owner;
CREATE ROLE regress_ia3_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO regress_ia3_owner;
GRANT EXECUTE ON FUNCTION ia3_train, ia3_copy(text, text) TO regress_ia3_owner, regress_ia3_reader;
SET ROLE regress_ia3_owner;
SELECT ia3_train('owned', 'TABLE cal_rows', steps => 1, seed => 1, calibrate => true);
SELECT ia3_grant('owned', 'regress_ia3_reader');
SELECT count(*) FROM ia3.adapter_scores;
INSERT INTO ia3.adapter_scores SELECT * FROM ia3.adapter_scores;
DELETE FROM ia3.adapter_scores;
-- readers have calibrated probabilities, but do not see the scores; nor does a copy of theirs
SET ROLE regress_ia3_reader;
SELECT temperature IS NOT NULL AS temperature, log_loss_before IS NOT NULL AS measures, (SELECT count(*) FROM ia3.adapter_scores) AS scores FROM ia3.adapters;
SELECT ia3_plot_calibration('owned');
SELECT ia3_plot_calibration('owned', $$VALUES ('a text', 'bug')$$) LIKE '<svg%' AS of_a_query;
SELECT ia3_calibrate('owned', $$VALUES ('a text', 'bug')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_calibrate TO regress_ia3_reader;
SET ROLE regress_ia3_reader;
SELECT ia3_calibrate('owned', $$VALUES ('a text', 'bug')$$);
SELECT jsonb_path_query_array(ia3_export_task('owned'), '$.versions[*].held_out') AS exported;
SELECT ia3_copy('owned', 'theirs');
SELECT ia3_plot_calibration('theirs');
SELECT task, temperature IS NOT NULL AS temperature, (SELECT count(*) FROM ia3.adapter_scores s WHERE s.task = a.task) FROM ia3.adapters a ORDER BY 1;
RESET ROLE;
SELECT ia3_drop('owned'), ia3_drop('theirs');
DROP OWNED BY regress_ia3_owner, regress_ia3_reader;
DROP ROLE regress_ia3_owner, regress_ia3_reader;

-- errors
SELECT ia3_train('bad', 'SELECT * FROM cal_rows LIMIT 4', steps => 1, calibrate => true);
SELECT ia3_train('bad', $$SELECT text, 'same' AS label FROM cal_rows$$, steps => 1, calibrate => true);
SELECT ia3_train('bad', 'TABLE cal_rows', steps => 1, calibrate => 'maybe');
CREATE FUNCTION cal_import(change jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE exported jsonb := ia3_export_task('cal'); detail text;
BEGIN
    exported := jsonb_set(exported, '{versions,1}', (exported #> '{versions,1}') || change);
    RETURN ia3_import_task(exported, 'bad');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ' ' || SQLERRM || ' | ' || regexp_replace(detail, '\(.*', '');
END $$;
SELECT cal_import('{"temperature": 0}');
SELECT cal_import('{"temperature": "NaN"}');
SELECT cal_import('{"temperature": "hot"}');
SELECT cal_import('{"held_out": 1}');
SELECT cal_import('{"held_out": [1]}');
SELECT cal_import('{"held_out": [{}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 1, "scores": [1, 2]}, {"row_number": 1, "fold": 1, "label": 1, "scores": [1, 2]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 3, "scores": [1, 2]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 101, "label": 1, "scores": [1, 2]}]}');
SELECT cal_import('{"held_out": [{"row_number": 0, "fold": 1, "label": 1, "scores": [1, 2]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 1, "scores": [1, null]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 1, "scores": [1, "NaN"]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 1, "scores": [[1, 2], [3, 4]]}]}');
SELECT cal_import('{"held_out": [{"row_number": 1, "fold": 1, "label": 1, "scores": []}]}');
SELECT cal_import('{"held_out": null, "temperature": null}');
SELECT ia3_drop('bad');
SET statement_timeout = '300ms';
SELECT ia3_train('bad', 'TABLE cal_rows', steps => 100000, calibrate => true);
RESET statement_timeout;
SELECT count(*) FROM ia3_stat_progress_train;
SELECT task FROM ia3.task WHERE task = 'bad';

SELECT ia3_drop(task) FROM ia3.task;
SELECT count(*) FROM ia3.adapter_scores;
DROP FUNCTION cal_loss, cal_fit, cal_import, cal_same, cal_recipe;
DROP VIEW cal_scores, cal_all, cal_best, cal_long, cal_rows;
DROP TABLE cal_shots, cal_out;
