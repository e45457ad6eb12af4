-- ia3_cross_validate: its numbers, from the predictions of ia3_cross_predict; the baselines.
SET client_min_messages = warning;

CREATE TABLE val_rows AS
SELECT i AS id, (ARRAY['invoice', 'payment', 'refund', 'crash', 'error', 'freeze'])[i % 6 + 1] || ' ' || (ARRAY['again', 'today', 'twice', 'still'])[i % 4 + 1] || ' number ' || i AS text,
       CASE WHEN i % 6 < 3 THEN 'billing' WHEN i % 12 = 4 THEN 'other' ELSE 'bug' END AS label, 'person ' || i % 7 AS person
  FROM generate_series(1, 37) i;
CREATE TABLE val_predicted AS SELECT * FROM ia3_cross_predict('SELECT text, label, id FROM val_rows ORDER BY id', folds => 4, repeats => 2, id_column => 'id',
    steps => 15, learning_rate => 0.01, seed => 3);
CREATE TABLE val AS SELECT * FROM ia3_cross_validate('SELECT text, label, id FROM val_rows ORDER BY id', folds => 4, repeats => 2, id_column => 'id',
    steps => 15, learning_rate => 0.01, seed => 3);
SELECT repeat, n, seconds > 0 AS seconds FROM val;

-- the definitions, in SQL
CREATE VIEW val_rows_measured AS
SELECT repeat, row_number, fold, label, predicted, probability, label = predicted AS hit, -ln((probabilities ->> label)::float8) AS log_loss,
       (SELECT sum((value::float8 - (key = label)::int) ^ 2) FROM jsonb_each_text(probabilities)) AS brier,
       ntile(10) OVER (PARTITION BY repeat ORDER BY probability, row_number) AS bin
  FROM val_predicted;
CREATE VIEW val_expected AS
SELECT repeat, avg(hit::int)::float8 AS accuracy, avg(log_loss) AS log_loss, avg(brier) AS brier,
       (SELECT avg(2.0 * tp / (2 * tp + fp + fn)) FROM (SELECT l, count(*) FILTER (WHERE label = l AND predicted = l) AS tp,
               count(*) FILTER (WHERE label <> l AND predicted = l) AS fp, count(*) FILTER (WHERE label = l AND predicted <> l) AS fn
          FROM val_rows_measured x, unnest('{billing,bug,other}'::text[]) l WHERE x.repeat = m.repeat GROUP BY l) f WHERE tp + fp + fn > 0)::float8 AS macro_f1,
       (SELECT sum(n * abs(p - a)) / 37 FROM (SELECT count(*) AS n, avg(probability) AS p, avg(hit::int)::float8 AS a FROM val_rows_measured x
         WHERE x.repeat = m.repeat GROUP BY bin) b) AS calibration_error,
       (SELECT avg((label = (SELECT y.label FROM val_rows_measured y WHERE y.repeat = x.repeat AND y.fold <> x.fold GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1))::int)
          FROM val_rows_measured x WHERE x.repeat = m.repeat)::float8 AS majority_accuracy
  FROM val_rows_measured m GROUP BY repeat;
SELECT repeat, abs(v.accuracy - e.accuracy) < 1e-12 AS accuracy, abs(v.log_loss - e.log_loss) < 1e-9 AS log_loss, abs(v.brier - e.brier) < 1e-9 AS brier,
       abs(v.macro_f1 - e.macro_f1) < 1e-9 AS macro_f1, abs(v.calibration_error - e.calibration_error) < 1e-9 AS calibration_error,
       abs(v.majority_accuracy - e.majority_accuracy) < 1e-12 AS majority
  FROM val v JOIN val_expected e USING (repeat) ORDER BY 1;
-- Wilson's interval of each repeat: its ends are the proportions from which the accuracy is 1.96 standard errors away
SELECT repeat, bool_and(abs(abs(accuracy - p) - 1.959963984540054 * sqrt(p * (1 - p) / n)) < 1e-9) AS wilson, bool_and(accuracy_low < accuracy AND accuracy < accuracy_high) AS around
  FROM val, LATERAL (VALUES (accuracy_low), (accuracy_high)) ends(p) WHERE repeat IS NOT NULL GROUP BY 1 ORDER BY 1;
-- the row of all has means, and intervals by the bootstrap
SELECT bool_and(abs(a.accuracy - m.accuracy) + abs(a.macro_f1 - m.macro_f1) + abs(a.log_loss - m.log_loss) + abs(a.brier - m.brier) + abs(a.calibration_error - m.calibration_error)
                + abs(a.majority_accuracy - m.majority_accuracy) + abs(a.linear_accuracy - m.linear_accuracy) + abs(a.linear_macro_f1 - m.linear_macro_f1) < 1e-12) AS means,
       bool_and(a.accuracy_low <= a.accuracy AND a.accuracy <= a.accuracy_high AND a.macro_f1_low <= a.macro_f1 AND a.macro_f1 <= a.macro_f1_high) AS around,
       bool_and(a.accuracy_high - a.accuracy_low BETWEEN 0.05 AND 0.5) AS wide, bool_and(abs(a.seconds - m.seconds) < 1e-9) AS seconds
  FROM (SELECT * FROM val WHERE repeat IS NULL) a,
       (SELECT avg(accuracy) AS accuracy, avg(macro_f1) AS macro_f1, avg(log_loss) AS log_loss, avg(brier) AS brier, avg(calibration_error) AS calibration_error,
               avg(majority_accuracy) AS majority_accuracy, avg(linear_accuracy) AS linear_accuracy, avg(linear_macro_f1) AS linear_macro_f1, sum(seconds) AS seconds
          FROM val WHERE repeat IS NOT NULL) m;
-- the same again; with groups the folds and the bootstrap take whole groups
SELECT count(*) AS same FROM (SELECT repeat, accuracy, accuracy_low, accuracy_high, macro_f1_low, macro_f1_high, log_loss, linear_accuracy FROM val
  INTERSECT SELECT repeat, accuracy, accuracy_low, accuracy_high, macro_f1_low, macro_f1_high, log_loss, linear_accuracy
    FROM ia3_cross_validate('SELECT text, label FROM val_rows ORDER BY id', folds => 4, repeats => 2, steps => 15, learning_rate => 0.01, seed => 3)) x;
SELECT repeat, n, accuracy_low <= accuracy AND accuracy <= accuracy_high AS around
  FROM ia3_cross_validate('SELECT text, label, person FROM val_rows ORDER BY id', folds => 3, group_column => 'person', steps => 2, seed => 3);

-- so does the interval of each repeat's accuracy: with one repeat, it is that of all
SELECT count(*) AS rows, count(DISTINCT (accuracy_low, accuracy_high)) AS intervals
  FROM ia3_cross_validate('SELECT text, label, person FROM val_rows ORDER BY id', folds => 3, group_column => 'person', steps => 2, seed => 3);

-- the linear model knows the words: "invoice" and the like decide between billing and the rest
SELECT repeat, round(linear_accuracy::numeric, 4) AS linear_accuracy, round(linear_macro_f1::numeric, 4) AS linear_macro_f1
  FROM ia3_cross_validate($$SELECT text, CASE WHEN label = 'billing' THEN 'yes' ELSE 'no' END AS label FROM val_rows ORDER BY id$$, folds => 4, steps => 1, seed => 3);
-- words are compared in lower case, across fields; what belongs to no row of the other folds does not matter
SELECT round(linear_accuracy::numeric, 4) AS linear_accuracy, round(majority_accuracy::numeric, 4) AS majority_accuracy
  FROM ia3_cross_validate($$SELECT CASE WHEN i % 3 = 0 THEN 'Almost-' || i ELSE 'ok' END AS a, CASE WHEN i % 3 = 0 THEN '' WHEN i % 2 = 0 THEN 'ALMOST' ELSE 'x' END AS b,
      CASE WHEN i % 3 = 0 OR i % 2 = 0 THEN 'alike' ELSE 'other' END AS label FROM generate_series(1, 30) i$$,
      template => ARRAY['{a} {b}'], folds => 3, steps => 1, seed => 1) WHERE repeat = 1;
-- rows with choices of their own have no linear model
SELECT repeat, n, linear_accuracy, linear_macro_f1, accuracy BETWEEN 0 AND 1 AS accuracy
  FROM ia3_cross_validate($$SELECT 'text ' || i AS text, 'y' AS label, ARRAY['x ' || i, 'y'] AS choices FROM generate_series(1, 4) i$$, folds => 2, steps => 1, seed => 1);
-- nor have too many words; the run goes on
SELECT repeat, n, linear_accuracy, linear_macro_f1, accuracy BETWEEN 0 AND 1 AS accuracy
  FROM ia3_cross_validate($$SELECT repeat('word ', 100000) || i AS text, 'label ' || i % 2 AS label FROM generate_series(1, 4) i$$, folds => 2, repeats => 2, steps => 1,
      truncate => 'end', choices => (SELECT array_agg('label ' || i) FROM generate_series(0, 49) i), seed => 1);
-- one row per fold, labels that occur once, and more rows than there are words
SELECT repeat, n, majority_accuracy, linear_accuracy FROM ia3_cross_validate($$SELECT '' AS text, 'label ' || i AS label FROM generate_series(1, 5) i$$, folds => 5, steps => 1, seed => 1);

-- errors
SELECT ia3_cross_validate(NULL);
SELECT ia3_cross_validate('TABLE val_rows', folds => 0);
SELECT ia3_cross_validate('TABLE val_rows', repeats => 101);
SELECT ia3_cross_validate('TABLE val_rows', folds => 40);
SELECT ia3_cross_validate('TABLE val_rows', folds => 30, repeats => 100, steps => 1000000);
SELECT ia3_cross_validate('TABLE val_rows', group_column => 'nobody');
SELECT ia3_cross_validate('SELECT text, label FROM val_rows WHERE false');
SELECT ia3_cross_validate($$SELECT text, 'same' AS label FROM val_rows$$);
SELECT ia3_cross_validate('TABLE val_rows', learning_rate => 'NaN');
CREATE ROLE regress_ia3_validator;
SET ROLE regress_ia3_validator;
SELECT ia3_cross_validate('TABLE val_rows');
RESET ROLE;
DROP ROLE regress_ia3_validator;

DROP TABLE val_rows, val_predicted, val CASCADE;
