-- Weights of training rows: balanced, class_weights and weight_column.
SET client_min_messages = warning;

CREATE DOMAIN weight_domain AS numeric CHECK (value < 100);
CREATE TABLE weigh_rows AS
SELECT i AS id, CASE WHEN i % 3 = 0 THEN 'the app crashes again' ELSE 'my invoice is wrong' END || ', case ' || i AS text,
       CASE WHEN i % 3 = 0 THEN 'bug' ELSE 'billing' END AS label, CASE WHEN i % 3 = 0 THEN 2 ELSE 1 END AS w,
       CASE WHEN i % 3 = 0 THEN 3 WHEN i = 4 THEN 0 ELSE 0.5 END AS uneven, 0 AS zero
  FROM generate_series(1, 12) i;
CREATE FUNCTION weigh(name text, balanced bool DEFAULT NULL, class_weights jsonb DEFAULT NULL, weight_column text DEFAULT NULL, query text DEFAULT 'TABLE weigh_rows ORDER BY id', method text DEFAULT 'ia3')
RETURNS int LANGUAGE sql AS $$
    SELECT ia3_train('w_' || name, query, steps => 4, learning_rate => 0.02, warmup_ratio => 0, seed => 5, method => method, balanced => balanced, class_weights => class_weights, weight_column => weight_column)
$$;

SELECT weigh('none');
SELECT weigh('off', false, '{}', NULL);
SELECT weigh('equal', class_weights => '{"bug": 0.1, "billing": 0.1}');
SELECT weigh('equal_rows', query => 'SELECT *, 7.5 AS seven FROM weigh_rows ORDER BY id', weight_column => 'seven');
SELECT weigh('equal_classes', true, query => 'SELECT text, label FROM weigh_rows WHERE id IN (1, 3, 5, 6) ORDER BY id');
SELECT weigh('four', query => 'SELECT text, label FROM weigh_rows WHERE id IN (1, 3, 5, 6) ORDER BY id');
SELECT weigh('balanced', true);
SELECT weigh('classes', class_weights => '{"bug": 20, "billing": 10}');
SELECT weigh('one_class', class_weights => '{"bug": 2}');
SELECT weigh('rows', weight_column => 'w');
SELECT weigh('uneven', weight_column => 'uneven');
SELECT weigh('product', class_weights => '{"bug": 0.5}', weight_column => 'w');
SELECT weigh('all', true, '{"bug": 8}', 'uneven');
-- uneven adds up to 3.5 for billing and to 12 for bug, and to 15.5 for both
SELECT weigh('all_by_hand', weight_column => 'h', query => $$SELECT *, CASE label WHEN 'bug' THEN 8 * 3 * 15.5 / 2 / 12 ELSE uneven * 15.5 / 2 / 3.5 END AS h FROM weigh_rows ORDER BY id$$);

-- equal weights change no bit; the same ratios give the same vectors
SELECT string_agg(substr(task, 3), ', ' ORDER BY task) AS same FROM ia3.adapter WHERE task LIKE 'w\_%' GROUP BY digest ORDER BY 1;

-- what is recorded; metrics have each label's mean weight
SELECT task, recipe -> 'balanced' AS balanced, recipe -> 'class_weights' AS class_weights, recipe -> 'weight_column' AS weight_column,
       round((metrics -> 'label_weights' -> 'billing')::numeric, 4) AS billing, round((metrics -> 'label_weights' -> 'bug')::numeric, 4) AS bug, round((metrics -> 'effective_examples')::numeric, 4) AS effective
  FROM ia3.adapter WHERE task IN ('w_none', 'w_off', 'w_balanced', 'w_classes', 'w_uneven', 'w_all') ORDER BY task;
SELECT ia3_copy('w_all', 'w_copy');
SELECT ia3_import_task(ia3_export_task('w_all'), 'w_again');
SELECT count(*) AS versions, count(DISTINCT recipe) AS recipes, count(DISTINCT metrics) AS metrics FROM ia3.adapter WHERE task IN ('w_all', 'w_copy', 'w_again');
CALL ia3_train_task('w_called', 'TABLE weigh_rows ORDER BY id', steps => 4, learning_rate => 0.02, warmup_ratio => 0, seed => 5, balanced => true);
SELECT a.digest = b.digest AS same FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'w_called' AND b.task = 'w_balanced';

-- other methods, the other way of averaging, columns of all numeric types
SELECT weigh('full', true, method => 'layernorm'), weigh('fish', true, method => 'fish');
SELECT ia3_train('w_example', 'TABLE weigh_rows ORDER BY id', steps => 4, seed => 5, loss_averaging => 'example', balanced => true, ensemble => 2);
SELECT t, weigh('types', weight_column => 'x', query => format('SELECT text, label, w::%s AS x FROM weigh_rows ORDER BY id', t))
  FROM unnest('{int2,int4,int8,float4,float8,numeric,weight_domain}'::text[]) t;
SELECT count(DISTINCT digest) AS digests FROM ia3.adapter WHERE task IN ('w_types', 'w_rows');

-- rows with choices of their own: labels are told apart by their names
SELECT weigh('own', true, '{"c": 2, "never": 9}', query => $$SELECT * FROM (VALUES ('one', 'a', '{a,b}'::text[]), ('two', 'a', '{b,a}'), ('three', 'c', '{c,never}'), ('four', 'b', '{a,b}')) v(text, label, choices)$$);
SELECT metrics -> 'label_weights' AS weights, metrics ->> 'effective_examples' AS effective FROM ia3.adapter WHERE task = 'w_own';

-- a fold weighs its own rows: it is what ia3_train makes of them
CREATE TABLE weigh_folds AS SELECT * FROM ia3_cross_predict('TABLE weigh_rows ORDER BY id', folds => 3, id_column => 'id', steps => 6, learning_rate => 0.02, warmup_ratio => 0, seed => 5, balanced => true, class_weights => '{"bug": 3}', weight_column => 'uneven');
SELECT ia3_train('w_fold', $$SELECT w.* FROM weigh_rows w JOIN weigh_folds f ON f.row_id = w.id::text WHERE fold <> 2 ORDER BY w.id$$, choices => '{billing,bug}', steps => 6, learning_rate => 0.02, warmup_ratio => 0, seed => 5 + 32,
       balanced => true, class_weights => '{"bug": 3}', weight_column => 'uneven');
SELECT count(*) AS rows, bool_and(abs((f.probabilities ->> c.choice)::float8 - c.probability) < 1e-9) AS same
  FROM weigh_folds f JOIN weigh_rows w ON f.row_id = w.id::text, ia3_classify('w_fold', w.text) c WHERE fold = 2;
SELECT ia3_train('w_fold', $$SELECT w.* FROM weigh_rows w JOIN weigh_folds f ON f.row_id = w.id::text WHERE fold <> 2 ORDER BY w.id$$, choices => '{billing,bug}', steps => 6, learning_rate => 0.02, warmup_ratio => 0, seed => 5 + 32);
SELECT bool_or(abs((f.probabilities ->> c.choice)::float8 - c.probability) > 1e-4) AS unlike_without
  FROM weigh_folds f JOIN weigh_rows w ON f.row_id = w.id::text, ia3_classify('w_fold', w.text) c WHERE fold = 2;
SELECT n FROM ia3_cross_validate('TABLE weigh_rows ORDER BY id', folds => 3, steps => 2, seed => 5, balanced => true, class_weights => '{"bug": 3}', weight_column => 'uneven');
SELECT size, n FROM ia3_learning_curve('TABLE weigh_rows ORDER BY id', '{4,8}', folds => 3, steps => 2, seed => 5, balanced => true, class_weights => '{"bug": 3}', weight_column => 'uneven');

-- mistakes
SELECT weigh('bad', class_weights => '[1, 2]');
SELECT weigh('bad', class_weights => '3');
SELECT weigh('bad', class_weights => '{"bug": 2, "bugs": 1}');
SELECT weigh('bad', class_weights => '{"x": 1}', query => $$SELECT 'a' AS text, 'b' AS label, '{a,b}'::text[] AS choices$$);
SELECT weigh('bad', class_weights => '{"bug": -1}');
SELECT weigh('bad', class_weights => '{"bug": 1e13}');
SELECT weigh('bad', class_weights => '{"bug": 1e400}');
SELECT weigh('bad', class_weights => '{"bug": "2"}');
SELECT weigh('bad', class_weights => '{"bug": null}');
SELECT weigh('bad', class_weights => '{"bug": [2]}');
SELECT weigh('bad', class_weights => '{"bug": {"x": 2}}');
SELECT weigh('bad', class_weights => '{"bug": 0, "billing": 0}');
SELECT weigh('bad', weight_column => 'nothing');
SELECT weigh('bad', weight_column => 'text');
SELECT weigh('bad', weight_column => 'zero');
SELECT weigh('bad', weight_column => 'x', query => 'SELECT *, 1e400 AS x FROM weigh_rows ORDER BY id');
SELECT weigh('bad', weight_column => '');
SELECT weigh('bad', weight_column => 'x', query => 'SELECT *, id < 6 AS x FROM weigh_rows');
SELECT weigh('bad', weight_column => 'x', query => 'SELECT *, w AS x, w AS x FROM weigh_rows');
SELECT weigh('bad', weight_column => 'x', query => 'SELECT *, nullif(id, 7) AS x FROM weigh_rows ORDER BY id');
SELECT weigh('bad', weight_column => 'x', query => 'SELECT *, 4 - id AS x FROM weigh_rows ORDER BY id');
SELECT weigh('bad', weight_column => 'x', query => $$SELECT *, CASE id WHEN 2 THEN 'NaN' ELSE 1::float8 END AS x FROM weigh_rows ORDER BY id$$);
SELECT weigh('bad', weight_column => 'x', query => $$SELECT *, CASE id WHEN 2 THEN 'NaN' ELSE 1::numeric END AS x FROM weigh_rows ORDER BY id$$);
SELECT weigh('bad', weight_column => 'x', query => $$SELECT *, 'Infinity'::float4 AS x FROM weigh_rows ORDER BY id$$);
SELECT weigh('bad', weight_column => 'x', query => $$SELECT *, 1e13 AS x FROM weigh_rows ORDER BY id$$);
SELECT weigh('bad', class_weights => '{"bug": 1e12}', weight_column => 'w');
SELECT count(*) FROM ia3_cross_predict('TABLE weigh_rows ORDER BY id', folds => 3, steps => 1, seed => 5, weight_column => 'zero');
SELECT count(*) FROM ia3_cross_predict($$SELECT *, CASE id WHEN 5 THEN 1 ELSE 0 END AS x FROM weigh_rows ORDER BY id$$, folds => 3, steps => 1, seed => 5, weight_column => 'x');
SELECT size FROM ia3_learning_curve('TABLE weigh_rows ORDER BY id', '{8}', folds => 3, steps => 1, seed => 5, weight_column => 'zero');
SELECT count(*) FROM ia3.task WHERE task = 'w_bad';

-- calibration trains with the weights of the version, in training and afterwards
SELECT ia3_train('w_calibrated', 'TABLE weigh_rows ORDER BY id', steps => 4, learning_rate => 0.02, warmup_ratio => 0, seed => 5, balanced => true, class_weights => '{"bug": 8}', weight_column => 'uneven', calibrate => true);
SELECT ia3_calibrate('w_all', 'TABLE weigh_rows ORDER BY id'), ia3_calibrate('w_none', 'TABLE weigh_rows ORDER BY id');
SELECT c.digest = a.digest AS same_vectors, c.temperature = a.temperature AS same_temperature, c.temperature <> n.temperature AS differs, c.metrics ? 'label_weights' AS weights
  FROM ia3.adapter c, ia3.adapter a, ia3.adapter n
 WHERE (c.task, c.version) = ('w_calibrated', 1) AND (a.task, a.version) = ('w_all', 2) AND (n.task, n.version) = ('w_none', 2);
SELECT ia3_calibrate('w_all', 'SELECT text, label FROM weigh_rows');

SELECT count(ia3_drop(task)) FROM ia3.task WHERE task LIKE 'w\_%';
DROP FUNCTION weigh;
DROP TABLE weigh_rows, weigh_folds;
DROP DOMAIN weight_domain;
