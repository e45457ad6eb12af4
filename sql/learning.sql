-- Learning curves: accuracy by the number of training rows, and their pictures.
SET client_min_messages = warning;

CREATE TABLE learn_shots (id int PRIMARY KEY, text text, label text, person text);
INSERT INTO learn_shots
SELECT i, w || ' number ' || i, l, 'person ' || i % 7
  FROM generate_series(1, 24) i, LATERAL (SELECT CASE WHEN i % 6 < 3 THEN 'billing' WHEN i % 6 < 5 THEN 'access' ELSE 'bug' END AS l,
       CASE WHEN i % 6 < 3 THEN (ARRAY['the invoice is wrong', 'charged twice', 'refund please'])[i % 3 + 1]
            WHEN i % 6 < 5 THEN (ARRAY['cannot log in', 'password lost', 'account locked'])[i % 3 + 1] ELSE 'the screen is black' END AS w) x;
-- a query, and what its rows are: the same order everywhere
CREATE VIEW learn_rows AS SELECT text, label, id, person FROM learn_shots ORDER BY id DESC;
SELECT label, count(*) FROM learn_shots GROUP BY 1 ORDER BY 2 DESC;

CREATE TABLE learn AS SELECT * FROM ia3_learning_curve('TABLE learn_rows', sizes => '{3,8,16}', folds => 3, repeats => 2, steps => 10, learning_rate => 0.02, seed => 11);
SELECT size, runs, n, accuracy BETWEEN accuracy_low AND accuracy_high AS around, macro_f1 BETWEEN macro_f1_low AND macro_f1_high AS around_f1,
       log_loss > 0 AS log_loss, brier BETWEEN 0 AND 2 AS brier, linear_accuracy BETWEEN 0 AND 1 AS linear FROM learn;

-- with all training rows it is a cross-validation
SELECT count(*) AS same FROM (SELECT n, accuracy, accuracy_low, accuracy_high, macro_f1, macro_f1_low, macro_f1_high, log_loss, brier, linear_accuracy FROM learn WHERE size = 16
  INTERSECT SELECT n, accuracy, accuracy_low, accuracy_high, macro_f1, macro_f1_low, macro_f1_high, log_loss, brier, linear_accuracy
    FROM ia3_cross_validate('TABLE learn_rows', folds => 3, repeats => 2, steps => 10, learning_rate => 0.02, seed => 11) WHERE repeat IS NULL) x;

-- which rows a run is trained on, as docs/sql.md describes it: SplitMix64 and the method of Webster
CREATE FUNCTION learn_xor(z numeric, shift int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN x < 0 THEN x + 2::numeric ^ 64 ELSE x END
      FROM (SELECT (CASE WHEN z >= 2::numeric ^ 63 THEN z - 2::numeric ^ 64 ELSE z END)::bigint # div(z, 2::numeric ^ shift)::bigint AS x) x
$$;
CREATE FUNCTION learn_random(seed numeric, counter int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT learn_xor(mod(learn_xor(mod(learn_xor(mod(seed + (counter + 1) * 11400714819323198485, 2::numeric ^ 64), 30)
        * 13787848793156543929, 2::numeric ^ 64), 27) * 10723151780598845931, 2::numeric ^ 64), 31)
$$;
SELECT learn_random(0, 0) = 16294208416658607535 AS splitmix64; -- 0xe220a8397b1dcdaf
CREATE TABLE learn_folds AS
SELECT p.*, s.text FROM ia3_cross_predict('TABLE learn_rows', folds => 3, repeats => 2, id_column => 'id', steps => 1, seed => 11) p JOIN learn_shots s ON s.id = p.row_id::int;
CREATE TABLE learn_order AS
SELECT repeat, fold, row_number, row_id, text, label, row_number() OVER (PARTITION BY repeat, fold ORDER BY (j - 0.5) / c, first) AS place
  FROM (SELECT o.repeat, f AS fold, o.row_number, o.row_id, o.text, o.label, count(*) OVER label AS c,
               row_number() OVER (label ORDER BY learn_random(learn_random(11, 100 + o.repeat - 1), o.row_number::int - 1)) AS j, x.first
          FROM learn_folds o JOIN generate_series(1, 3) f ON o.fold <> f
          JOIN (SELECT label, min(row_number) AS first FROM learn_folds GROUP BY 1) x USING (label)
        WINDOW label AS (PARTITION BY o.repeat, f, o.label)) x;
-- every beginning has the labels' shares, rounded
SELECT size, bool_and(abs(n - size * c / 16.0) < 1) AS shares
  FROM (SELECT size, repeat, fold, label, count(*) FILTER (WHERE place <= size) AS n, count(*) AS c FROM learn_order, unnest('{3,8,16}'::int[]) size GROUP BY 1, 2, 3, 4) x GROUP BY 1 ORDER BY 1;
-- so ia3_train on these rows, with the seed of the fold, gives the same predictions
CREATE FUNCTION learn_one(size int, OUT accuracy float8, OUT log_loss float8) LANGUAGE plpgsql AS $$
DECLARE right_rows int := 0; loss float8 := 0; r record; one record;
BEGIN
    FOR r IN SELECT DISTINCT repeat, fold FROM learn_folds LOOP
        PERFORM ia3_train('learn_one', format($q$SELECT text, label FROM learn_order WHERE repeat = %s AND fold = %s AND place <= %s ORDER BY row_number$q$, r.repeat, r.fold, size),
            choices => (SELECT array_agg(label ORDER BY first) FROM (SELECT label, min(row_number) AS first FROM learn_folds GROUP BY 1) x),
            steps => 10, learning_rate => 0.02, seed => 11 + 32 * ((r.repeat - 1) * 3 + r.fold - 1));
        SELECT count(*) FILTER (WHERE ia3_predict('learn_one', text) = label) AS n, sum(-ln(c.probability)) AS loss INTO one
          FROM learn_folds f, ia3_classify('learn_one', text) c WHERE f.repeat = r.repeat AND f.fold = r.fold AND c.choice = f.label;
        right_rows := right_rows + one.n;
        loss := loss + one.loss;
    END LOOP;
    accuracy := right_rows / 48.0; log_loss := loss / 48;
END $$;
SELECT cache_misses AS misses FROM ia3_stat_engine \gset
SELECT size, abs(o.accuracy - l.accuracy) < 1e-12 AS accuracy, abs(o.log_loss - l.log_loss) < 1e-9 AS log_loss
  FROM learn l, LATERAL learn_one(size) o WHERE size < 16 ORDER BY 1;
-- (the engine has the adapters of the runs in its cache, so it would miss those that differ in a bit)
SELECT cache_misses - :misses AS differing_adapters FROM ia3_stat_engine;

-- groups stay together in a fold; one size; rows with choices of their own have no linear model
SELECT size, runs, n FROM ia3_learning_curve('TABLE learn_rows', '{5}', folds => 3, group_column => 'person', steps => 1, seed => 1);
SELECT size, n, linear_accuracy FROM ia3_learning_curve($$SELECT 'text ' || i AS text, 'y' AS label, ARRAY['x ' || i, 'y'] AS choices FROM generate_series(1, 6) i$$,
    sizes => '{1,3}', folds => 2, steps => 1, seed => 1);
-- without sizes 10, 20 and 40 rows; a seed is drawn, and a label that occurs once is reported
SET client_min_messages = notice;
SELECT array_agg(size) AS sizes, max(n) AS n
  FROM ia3_learning_curve($$SELECT 'text ' || i AS text, CASE WHEN i = 1 THEN 'rare' ELSE 'label ' || i % 2 END AS label FROM generate_series(1, 50) i$$, steps => 1, batch_size => 1, seed => 1);
SET client_min_messages = warning;
SELECT count(*) FROM ia3_learning_curve('TABLE learn_rows', '{2}', folds => 2, steps => 1);
-- nothing is stored
SELECT count(*) FROM ia3.task WHERE task LIKE 'learn%' AND task <> 'learn_one';

-- errors
SELECT ia3_learning_curve(NULL);
SELECT ia3_learning_curve('TABLE learn_rows', NULL);
SELECT ia3_learning_curve('TABLE learn_rows', '{}');
SELECT ia3_learning_curve('TABLE learn_rows', '{2,NULL}');
SELECT ia3_learning_curve('TABLE learn_rows', '{{2,3}}');
SELECT ia3_learning_curve('TABLE learn_rows', '{0,3}');
SELECT ia3_learning_curve('TABLE learn_rows', '{3,3}');
SELECT ia3_learning_curve('TABLE learn_rows', '{8,3}');
SELECT ia3_learning_curve('TABLE learn_rows', '{3,17}', folds => 3);
SELECT ia3_learning_curve('TABLE learn_rows');
SELECT ia3_learning_curve('TABLE learn_rows', '{5,20}', folds => 3, group_column => 'person');
SELECT ia3_learning_curve('TABLE learn_rows', (SELECT array_agg(i) FROM generate_series(1, 11) i), folds => 100);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', folds => NULL);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', folds => 1);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', repeats => 0);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', folds => 25);
SELECT ia3_learning_curve('TABLE learn_rows', '{3,4}', folds => 5, repeats => 100, steps => 100000);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', group_column => 'nobody');
SELECT ia3_learning_curve('SELECT text, label FROM learn_rows WHERE false', '{3}');
SELECT ia3_learning_curve($$SELECT text, 'same' AS label FROM learn_rows$$, '{3}');
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', steps => 0);
SELECT ia3_learning_curve('TABLE learn_rows', '{3}', backbone => 'nowhere');
-- cancellation leaves nothing
SET statement_timeout = '300ms';
SELECT ia3_learning_curve('TABLE learn_rows', '{3,8}', folds => 2, steps => 100000, seed => 1);
RESET statement_timeout;
SELECT count(*) FROM ia3_stat_progress_train;
CREATE ROLE regress_ia3_learner;
SET ROLE regress_ia3_learner;
SELECT ia3_learning_curve('TABLE learn_rows');
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_learning_curve TO regress_ia3_learner;
SET ROLE regress_ia3_learner;
SELECT ia3_learning_curve('TABLE learn_rows');
RESET ROLE;
DROP OWNED BY regress_ia3_learner;
DROP ROLE regress_ia3_learner;

-- pictures: a dot for each size and for its linear model, a bar for each interval
CREATE FUNCTION learn_count(svg text, path text) RETURNS bigint LANGUAGE sql AS
    $$SELECT cardinality(xpath(path, svg::xml, '{{s,http://www.w3.org/2000/svg}}'))$$;
SELECT xml_is_well_formed_document(svg) AS xml, learn_count(svg, '//s:circle[@class="ia3-dot"]') AS dots, learn_count(svg, '//s:circle[@class="ia3-dim"]') AS linear,
       learn_count(svg, '//s:path[contains(@d, "V")]') AS bars, learn_count(svg, '//s:path[@stroke-dasharray]') AS dashed,
       learn_count(svg, '//s:text[.="training rows"]') AS x, learn_count(svg, '//s:text[.="accuracy"]') AS y,
       learn_count(svg, '//s:text[.="predicted rows: 24, runs of each size: 6, bars: 95 % intervals"]') AS described
  FROM (SELECT ia3_plot_learning_curve(jsonb_agg(c)) AS svg FROM learn c) p;
-- the order of the elements does not matter, what is missing is not drawn
SELECT ia3_plot_learning_curve('[{"size": 20, "accuracy": 0.8}, {"size": 10, "accuracy": 0.7}]') = ia3_plot_learning_curve('[{"size": 10, "accuracy": 0.7, "accuracy_low": null}, {"size": 20, "accuracy": 0.8}]') AS same;
SELECT learn_count(svg, '//s:circle') AS dots, learn_count(svg, '//s:path') AS lines,
       (xpath('//s:path/@d', svg::xml, '{{s,http://www.w3.org/2000/svg}}'))[1] AS line, (xpath('//s:circle/s:title/text()', svg::xml, '{{s,http://www.w3.org/2000/svg}}')) AS tips
  FROM ia3_plot_learning_curve('[{"size": 10, "accuracy": 0.5}, {"size": 20, "accuracy": 1}]') svg;
SELECT xml_is_well_formed_document(ia3_plot_learning_curve(v::jsonb)) AS xml
  FROM unnest(ARRAY['[{"size": 1, "accuracy": 0}]', '[{"size": 2147483647, "accuracy": 1, "accuracy_low": 0, "accuracy_high": 1}]']) v;
SELECT ia3_plot_learning_curve(NULL) IS NULL AS null;
SELECT ia3_plot_learning_curve('[]');
SELECT ia3_plot_learning_curve('{"size": 1}');
SELECT ia3_plot_learning_curve('7');
SELECT ia3_plot_learning_curve('[{"size": 10, "accuracy": 0.5}, 7]');
SELECT ia3_plot_learning_curve('[[1, 2]]');
SELECT ia3_plot_learning_curve('[{"size": 10}]');
SELECT ia3_plot_learning_curve('[{"size": "x", "accuracy": 1}]');
SELECT ia3_plot_learning_curve('[{"size": 0, "accuracy": 1}]');
SELECT ia3_plot_learning_curve('[{"size": 10, "accuracy": 1.5}]');
SELECT ia3_plot_learning_curve('[{"size": 10, "accuracy": 1, "accuracy_low": -1}]');
SELECT ia3_plot_learning_curve('[{"size": 10, "accuracy": 1}, {"size": 10, "accuracy": 0.5}]');

SELECT ia3_drop('learn_one');
DROP FUNCTION learn_one, learn_random, learn_xor, learn_count;
DROP TABLE learn_shots, learn, learn_folds, learn_order CASCADE;
