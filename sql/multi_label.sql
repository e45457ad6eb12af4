-- Multi-label tasks: any number of the choices are right for a row.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
CREATE TABLE multi_shots (id int, text text, labels text[], one text, weight int DEFAULT 1);
INSERT INTO multi_shots VALUES
    (1, 'I was charged twice and the app closes when I open it', '{billing,bug}', 'billing'), (2, 'cannot log in any more', '{access}', 'access'),
    (3, 'the invoice shows a wrong amount', '{billing}', 'billing'), (4, 'please reset my password, the page stays blank', '{bug,access}', 'access'),
    (5, 'when do I get my refund', '{billing}', 'billing'), (6, 'thank you for everything', '{}', 'none'),
    (7, 'my account is locked and my money is gone', '{access,billing}', 'access'), (8, 'the page stays blank', '{bug}', 'bug'),
    (9, 'have a nice weekend', '{}', 'none'), (10, 'login fails, payment fails, and the screen is black', '{access,bug,billing}', 'bug');
CREATE VIEW multi_rows AS SELECT text, labels FROM multi_shots ORDER BY id;

-- the order of the elements does not matter, and nor does their type
SELECT ia3_train('topics', 'TABLE multi_rows', steps => 40, learning_rate => 0.02, seed => 7);
SELECT ia3_train('topics', 'SELECT text, ARRAY(SELECT x::varchar FROM unnest(labels) x ORDER BY x DESC) AS label FROM multi_shots ORDER BY id',
                 choices => '{billing,bug,access}', steps => 40, learning_rate => 0.02, seed => 7);
SELECT count(DISTINCT digest), bool_and(recipe -> 'multi_label' = 'true') AS recorded FROM ia3.adapter WHERE task = 'topics';
SELECT choices, multi_label FROM ia3.task WHERE task = 'topics';
SELECT ia3_train('single', 'SELECT text, one FROM multi_shots ORDER BY id', steps => 10, seed => 7);
SELECT task, multi_label FROM ia3.task WHERE task IN ('topics', 'single') ORDER BY task;
SELECT recipe ? 'multi_label' AS recorded FROM ia3.adapter WHERE task = 'single';

-- probabilities do not add up to 1; the labels are those that are more likely than not, in the order of the choices
SELECT bool_and(abs(probability - 1 / (1 + exp(-score))) < 1e-9) AS logistic, bool_and(rank = expected) AS ranked, count(*)
  FROM (SELECT c.*, row_number() OVER (PARTITION BY s.id ORDER BY c.probability DESC) AS expected FROM multi_shots s, ia3_classify('topics', s.text) c) x;
CREATE TABLE multi_known AS
    SELECT id, text, ARRAY(SELECT choice FROM ia3_classify('topics', text) WHERE probability >= 0.5 ORDER BY array_position('{billing,bug,access}', choice)) AS expected,
           ARRAY(SELECT choice FROM ia3_classify('topics', text) WHERE probability >= 0.1 ORDER BY array_position('{billing,bug,access}', choice)) AS most,
           ARRAY(SELECT choice FROM ia3_classify('topics', text, '{access,bug}') WHERE probability >= 0.5 ORDER BY array_position('{access,bug}', choice)) AS own,
           ia3_predict('single', text) AS single, ia3_zero_shot(text, '{billing,bug,access}') AS zero_shot
      FROM multi_shots;
SELECT count(DISTINCT expected) > 2 AS varied FROM multi_known;
CREATE FUNCTION multi_wrong() RETURNS TABLE (call text, wrong bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOREACH call IN ARRAY ARRAY[
        $q$ia3_predict_labels('topics', text) IS DISTINCT FROM expected$q$,
        $q$ia3_predict_labels('topics@1', text, NULL, NULL) IS DISTINCT FROM expected$q$,
        $q$ia3_predict_labels('topics', jsonb_build_object('text', text), min_probability => 0.5) IS DISTINCT FROM expected$q$,
        $q$ia3_predict_labels('topics', json_build_object('text', text), min_probability => 0.1) IS DISTINCT FROM most$q$,
        $q$ia3_predict_labels_fields('topics', jsonb_build_object('text', text), '{access,bug}') IS DISTINCT FROM own$q$,
        $q$ia3_predict_labels_fields('topics', json_build_object('text', text)::text) IS DISTINCT FROM expected$q$,
        $q$ia3_predict_labels_fields('topics', json_build_object('text', text)) IS DISTINCT FROM expected$q$,
        $q$ia3_predict_labels('topics', text, min_probability => 0) IS DISTINCT FROM '{billing,bug,access}'$q$,
        $q$(ia3_predict_labels('topics', text), ia3_predict('single', text), ia3_zero_shot(text, '{billing,bug,access}')) IS DISTINCT FROM (expected, single, zero_shot)$q$,
        $q$CASE id % 3 WHEN 0 THEN ia3_predict('single', text) <> single WHEN 1 THEN ia3_predict_labels('topics', text) <> expected ELSE ia3_zero_shot(text, '{billing,bug,access}') <> zero_shot END$q$]
    LOOP
        EXECUTE format('SELECT count(*) FROM multi_known WHERE %s', call) INTO wrong;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT count(*), sum(wrong) AS wrong FROM multi_wrong();
SET ia3.enable_batching = off;
SELECT count(*), sum(wrong) AS wrong FROM multi_wrong();
RESET ia3.enable_batching;
-- ahead
EXPLAIN (COSTS off) SELECT ia3_predict_labels('topics', text, min_probability => 0.3) FROM multi_shots;
SELECT ia3_predict_labels('topics', NULL::text) IS NULL AS no_input, ia3_predict_labels(NULL, 'text') IS NULL AS no_task,
       ia3_predict_labels('topics', 'nice weekend', min_probability => 1) AS none;
-- what the owner sets holds for all labels; a call may say otherwise
UPDATE ia3.task SET min_probability = 0.1 WHERE task = 'topics';
SELECT bool_and(ia3_predict_labels('topics', text) = most) AS all_labels, bool_and(ia3_predict_labels('topics', text, NULL, 0.5) = expected) AS of_call FROM multi_known;
UPDATE ia3.task SET min_probability = NULL WHERE task = 'topics';

-- verbalizers and descriptions: one verbalizer for a label is the same, bit for bit, as if it were the label
CREATE FUNCTION multi_words(text[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY(SELECT CASE x WHEN 'billing' THEN 'money' ELSE x END FROM unnest($1) x) $$;
SELECT ia3_train('described', 'TABLE multi_rows', '{"{descriptions}\n{text}"}', steps => 6, seed => 7, choices => '{billing,bug,access}', descriptions => '{"billing": "money"}');
SELECT cardinality(ia3_predict_labels('described', 'my refund', NULL, 0)) AS n;
SELECT ia3_train('worded', 'TABLE multi_rows', '{"Of {choices}, which is it about?\n{text}"}', steps => 12, seed => 7, choices => '{billing,bug,access}', verbalizers => '{"billing": "money"}');
SELECT ia3_train('words', 'SELECT text, multi_words(labels) FROM multi_shots ORDER BY id', '{"Of {choices}, which is it about?\n{text}"}', steps => 12, seed => 7, choices => '{money,bug,access}');
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task IN ('worded', 'words');
SELECT bool_and(ia3_predict_labels('worded', text, NULL, 0.3) = array_replace(ia3_predict_labels('words', text, NULL, 0.3), 'money', 'billing')) AS same FROM multi_shots;
-- several: the score of a label is the mean of theirs, and training draws one
SELECT ia3_train('worded', 'TABLE multi_rows', steps => 12, seed => 7, verbalizers => '{"billing": ["money", "an invoice"]}', dropout => 0);
SELECT ia3_train('worded', 'TABLE multi_rows', steps => 12, seed => 7, verbalizers => '{"billing": ["money", "an invoice"]}', dropout => 0);
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'worded' AND version > 1;
SELECT ia3_copy('worded', 'words_of');
UPDATE ia3.task SET verbalizers = NULL, choices = '{money,an invoice,bug,access}' WHERE task = 'words_of';
SELECT abs(c.score - (SELECT avg(score) FROM ia3_classify('words_of', 'my refund') WHERE choice IN ('money', 'an invoice'))) < 1e-6 AS mean
  FROM ia3_classify('worded', 'my refund') c WHERE c.choice = 'billing';

-- rows with choices of their own, weights, other methods, an ensemble, several templates
SELECT ia3_train('own', $$SELECT text, labels AS label, CASE WHEN id % 2 = 0 THEN '{bug,access,billing,praise}'::text[] ELSE '{billing,bug,access}' END AS choices FROM multi_shots$$, steps => 6, seed => 7);
SELECT choices, multi_label FROM ia3.task WHERE task = 'own';
SELECT ia3_predict_labels('own', 'my money', '{bug,money}', 0) AS labels;
SELECT ia3_train('weighed', 'SELECT text, labels AS label, id AS w FROM multi_shots ORDER BY id', steps => 6, seed => 7, weight_column => 'w');
SELECT metrics ? 'effective_examples' AS weighed, metrics ? 'label_weights' AS by_label FROM ia3.adapter WHERE task = 'weighed';
SELECT ia3_train('lora', 'TABLE multi_rows', '{"{text}","About what? {text}"}', method => 'lora', ensemble => 2, steps => 6, seed => 7, loss_averaging => 'example', choices => '{billing,bug,access}');
SELECT cardinality(ia3_predict_labels('lora', 'my money', NULL, 0)) AS n;
CALL ia3_train_task('topics', 'TABLE multi_rows', steps => 6, seed => 7, activate => false, early_stopping => 'none');

-- evaluation, from what ia3_classify says
CREATE FUNCTION multi_expected(name text, at float8 DEFAULT 0.5) RETURNS TABLE (n bigint, accuracy float8, macro_f1 float8, gap float8, micro_f1 float8) LANGUAGE sql AS $$
    WITH answers AS (SELECT s.id, c.choice, c.score, c.choice = ANY (s.labels) AS gold, c.probability >= at AS predicted FROM multi_shots s, ia3_classify(name, s.text) c),
         counts AS (SELECT choice, count(*) FILTER (WHERE gold AND predicted) AS hits, count(*) FILTER (WHERE gold) + count(*) FILTER (WHERE predicted) AS total FROM answers GROUP BY choice)
    SELECT (SELECT count(DISTINCT id) FROM answers), (SELECT avg(exact::int)::float8 FROM (SELECT bool_and(gold = predicted) AS exact FROM answers GROUP BY id) x),
           (SELECT avg(2.0 * hits / total)::float8 FROM counts WHERE total > 0), (SELECT avg(CASE WHEN gold THEN score ELSE -score END) FROM answers), (SELECT (2.0 * sum(hits) / sum(total))::float8 FROM counts)
$$;
SELECT e.n, e.answered, e.accuracy = x.accuracy AND e.accuracy_answered = e.accuracy AS accuracy, abs(e.macro_f1 - x.macro_f1) < 1e-9 AS macro_f1, abs(e.mean_score_gap - x.gap) < 1e-6 AS gap,
       abs(e.micro_f1 - x.micro_f1) < 1e-9 AS micro_f1, e.accuracy BETWEEN 0.5 AND 0.99 AS some_wrong
  FROM ia3_evaluate('topics', 'TABLE multi_rows') e, multi_expected('topics') x;
SELECT e.accuracy = x.accuracy AS accuracy, abs(e.macro_f1 - x.macro_f1) < 1e-9 AS macro_f1, abs(e.micro_f1 - x.micro_f1) < 1e-9 AS micro_f1, e.accuracy <> y.accuracy AS differs
  FROM ia3_evaluate('topics', 'TABLE multi_rows', min_probability => 0.02) e, multi_expected('topics', 0.02) x, multi_expected('topics') y;
SELECT r.label, r.n, r.predicted = x.predicted AS predicted, r."precision" = x.hits / x.predicted AS "precision", r.recall = x.hits / r.n AS recall, abs(r.f1 - 2 * x.hits / (r.n + x.predicted)) < 1e-9 AS f1
  FROM ia3_class_report('topics', 'TABLE multi_rows') r JOIN LATERAL
       (SELECT count(*)::float8 AS predicted, count(*) FILTER (WHERE r.label = ANY (labels))::float8 AS hits FROM multi_shots WHERE r.label = ANY (ia3_predict_labels('topics', text))) x ON true;
SELECT micro_f1, macro_f1 IS NOT NULL AS macro_f1 FROM ia3_evaluate('single', 'SELECT text, one FROM multi_shots');
SELECT accuracy, macro_f1, micro_f1 FROM ia3_evaluate('topics', $$SELECT 'have a nice weekend' AS text, '{}'::text[] AS label$$, min_probability => 1);
SELECT n FROM ia3_evaluate('own', $$SELECT text, labels AS label, '{bug,access,billing,other}'::text[] AS choices FROM multi_shots$$);
SELECT * FROM ia3_evaluate('topics', 'SELECT text, one FROM multi_shots');
SELECT * FROM ia3_evaluate('topics', $$SELECT 'a' AS text, '{bug,none}'::text[] AS label$$);
SELECT * FROM ia3_evaluate('topics', $$SELECT 'a' AS text, '{bug,bug}'::text[] AS label$$);

-- calibration: a temperature and thresholds from the scores of rows that had not been seen, here from runs by hand on the same folds
SELECT ia3_train('calibrated', 'TABLE multi_rows', steps => 12, learning_rate => 0.02, seed => 3, choices => '{billing,bug,access}', calibrate => true);
CREATE TABLE multi_folds AS SELECT row_number AS id, fold FROM ia3_cross_predict('SELECT text, ARRAY(SELECT unnest(labels) ORDER BY 1)::text FROM multi_shots ORDER BY id', folds => 5, steps => 1, seed => 3);
SELECT count(*), bool_and(ia3_train('fold ' || f, format('SELECT text, labels FROM multi_shots s JOIN multi_folds USING (id) WHERE fold <> %s ORDER BY id', f), steps => 12, learning_rate => 0.02,
                              seed => 3 + 32 * (f - 1), choices => '{billing,bug,access}') = 1) FROM generate_series(1, 5) f;
CREATE TABLE multi_held_out AS SELECT s.id, c.choice, c.score, c.choice = ANY (s.labels) AS gold FROM multi_shots s JOIN multi_folds f USING (id), ia3_classify('fold ' || f.fold, s.text) c;
CREATE FUNCTION multi_f1(label text, at float8, t float8) RETURNS float8 LANGUAGE sql AS $$
    SELECT 2.0 * count(*) FILTER (WHERE gold AND predicted) / (count(*) FILTER (WHERE gold) + count(*) FILTER (WHERE predicted))
      FROM (SELECT gold, 1 / (1 + exp(-score / t)) >= at AS predicted FROM multi_held_out WHERE choice = label) x $$;
SELECT choice, abs(multi_f1(choice, (thresholds ->> choice)::float8, temperature) - (SELECT max(multi_f1(choice, at / 1000.0, temperature)) FROM generate_series(1, 999) at)) < 1e-9 AS best
  FROM ia3.adapter, unnest('{billing,bug,access}'::text[]) choice WHERE task = 'calibrated';
SELECT count(DISTINCT value) > 1 AS differ, bool_and(value::text::float8 BETWEEN 0 AND 1) FROM ia3.adapters, jsonb_each(thresholds) WHERE task = 'calibrated';
-- the temperature is where the log loss of all answers, with the prior, is least
CREATE FUNCTION multi_loss(t float8) RETURNS float8 LANGUAGE sql AS $$ SELECT sum(ln(1 + exp(CASE WHEN gold THEN -score ELSE score END / t))) + ln(t) ^ 2 / 2 FROM multi_held_out $$;
SELECT bool_and(multi_loss(temperature) <= multi_loss(temperature * factor) + 1e-6) AS least FROM ia3.adapter, unnest('{0.9,0.99,1.01,1.1}'::float8[]) factor WHERE task = 'calibrated';
SELECT metrics -> 'calibration' -> 'rows' AS answers, (metrics -> 'thresholds' ->> 'micro_f1_before')::float8 BETWEEN 0 AND 1 AND (metrics -> 'thresholds' ->> 'micro_f1_after')::float8 BETWEEN 0 AND 1 AS measured,
       abs((metrics -> 'thresholds' ->> 'micro_f1_before')::float8 - (SELECT 2.0 * count(*) FILTER (WHERE gold AND score >= 0) / (count(*) FILTER (WHERE gold) + count(*) FILTER (WHERE score >= 0)) FROM multi_held_out)) < 1e-9 AS before
  FROM ia3.adapter WHERE task = 'calibrated';
SELECT bool_and(ia3_predict_labels('calibrated', text) = ARRAY(SELECT choice FROM ia3_classify('calibrated', text) WHERE probability >= (thresholds ->> choice)::float8 ORDER BY array_position('{billing,bug,access}', choice))) AS same
  FROM multi_shots, ia3.adapter WHERE task = 'calibrated';
SELECT count(*), bool_and(abs((p.probabilities ->> h.choice)::float8 - 1 / (1 + exp(-h.score))) < 1e-6 AND (h.choice = ANY (p.predicted::text[])) = (h.score >= 0) AND p.label::text[] = s.sorted) AS same,
       bool_and(abs(p.probability - (SELECT exp(sum(ln(greatest(v::float8, 1 - v::float8)))) FROM jsonb_each_text(p.probabilities) x(k, v))) < 1e-6) AS of_set
  FROM ia3_cross_predict('TABLE multi_rows', folds => 5, steps => 12, learning_rate => 0.02, seed => 3, choices => '{billing,bug,access}') p JOIN multi_held_out h ON h.id = p.row_number
  JOIN (SELECT id, ARRAY(SELECT unnest(labels) ORDER BY 1) AS sorted FROM multi_shots) s USING (id);
-- the same afterwards, and in copies
SELECT ia3_train('later', 'TABLE multi_rows', steps => 12, learning_rate => 0.02, seed => 3, choices => '{billing,bug,access}');
SELECT thresholds FROM ia3.adapters WHERE task = 'later';
SELECT ia3_calibrate('later', 'TABLE multi_rows');
SELECT ia3_copy('later', 'later copy');
SELECT ia3_import_task(ia3_export_task('later'), 'later import');
SELECT count(*), count(DISTINCT thresholds), count(DISTINCT temperature), bool_and(recipe -> 'multi_label' = 'true') AS recorded, count(*) FILTER (WHERE digest <> (SELECT digest FROM ia3.adapter WHERE task = 'calibrated')) AS other
  FROM ia3.adapter WHERE task IN ('calibrated', 'later', 'later copy', 'later import') AND temperature IS NOT NULL;
SELECT count(*) FROM ia3.adapter_scores WHERE task IN ('calibrated', 'later');
SELECT ia3_calibrate('later', 'SELECT text, one FROM multi_shots');
SELECT ia3_calibrate('single', 'TABLE multi_rows');
SELECT ia3_plot_calibration('calibrated');
SELECT * FROM ia3_coverage_curve('calibrated');
-- as many steps as the held-out rows find best
SELECT ia3_train('shorter', 'TABLE multi_rows', steps => 8, seed => 3, early_stopping => 'folds', calibrate => true);
SELECT thresholds ?& '{billing,bug,access}' AS thresholds, temperature IS NOT NULL AS temperature, metrics -> 'early_stopping' ->> 'rule' AS rule FROM ia3.adapter WHERE task = 'shorter';
-- too few rows have a label, or lack it
SELECT ia3_train('rare', $$SELECT 'number ' || i, CASE WHEN i < 3 THEN '{rare,usual}'::text[] ELSE '{usual}' END FROM generate_series(1, 10) i$$, steps => 4, seed => 3, calibrate => true);
SELECT thresholds FROM ia3.adapter WHERE task = 'rare';

-- copies, exports, averages, versions of another kind
SELECT ia3_copy('topics', 'copied');
SELECT ia3_import_task(ia3_export_task('topics'), 'imported');
SELECT ia3_rename('imported', 'renamed');
SELECT task, multi_label FROM ia3.task WHERE task IN ('copied', 'renamed') ORDER BY task;
SELECT bool_and(ia3_predict_labels('copied', text) = expected AND ia3_predict_labels('renamed', text) = expected) AS same FROM multi_known;
SELECT ia3_average('copied', '{copied@1,copied@3}');
SELECT multi_label, active_version FROM ia3.task WHERE task = 'copied';
SELECT ia3_average('copied', '{copied@1,single@1}');
SELECT ia3_train('copied', 'SELECT text, one FROM multi_shots ORDER BY id', steps => 5, seed => 7);
SELECT multi_label FROM ia3.task WHERE task = 'copied';
SELECT ia3_predict('copied', 'my refund') IS NOT NULL AS predicted, ia3_predict_labels('copied@1', text) = expected AS version_1 FROM multi_known WHERE id = 1;
SELECT ia3_activate('copied', 1);
SELECT multi_label FROM ia3.task WHERE task = 'copied';
SELECT ia3_import('copied', ia3_export('copied@1'));
SELECT ia3_predict_labels('copied', text) = expected AS same FROM multi_known WHERE id = 1;
SELECT ia3_import_task(jsonb_set(ia3_export_task('topics'), '{versions,0,thresholds}', '{"bug": 0.01}'), 'limits');
SELECT ia3_predict_labels('limits@1', text) @> '{bug}' AS likely_enough, ia3_predict_labels('limits@1', text, NULL, 0.999) AS of_call FROM multi_shots WHERE id = 9;
SELECT thresholds FROM ia3.adapters WHERE (task, version) = ('limits', 1);
SELECT ia3_import_task(jsonb_set(ia3_export_task('topics'), '{versions,0,thresholds}', '{"bug": 1.01}'), 'wrong');
SELECT ia3_import_task(jsonb_set(ia3_export_task('topics'), '{versions,0,thresholds}', '{"bug": "high"}'), 'wrong');
SELECT ia3_import_task(jsonb_set(ia3_export_task('topics'), '{versions,0,thresholds}', '[]'), 'wrong');

-- labels that are wrong
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x,NULL}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, NULL::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT * FROM (VALUES ('a', '{x}'::text[]), ('b', '{y,x,y}')) v(text, label)$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{{x,y},{z,u}}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{}'::text[] AS label$$, choices => '{x,y}');
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x,z}'::text[] AS label$$, choices => '{x,y}');
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x,z}'::text[] AS label, '{x}'::text[] AS choices$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x,""}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT 'a' AS text, '{x," "}'::text[] AS label$$);
SELECT ia3_train('bad', $$SELECT * FROM (VALUES ('a', '{x}'::text[]), ('b', '{"x "}')) v(text, label)$$);
SELECT ia3_train('bad', 'TABLE multi_rows', balanced => true);
SELECT ia3_train('bad', 'TABLE multi_rows', class_weights => '{"bug": 2}');
SELECT ia3_train('bad', 'TABLE multi_rows', verbalizers => '{"bug": "billing"}');
SELECT count(*) FROM ia3.task WHERE task = 'bad';

-- functions that are about one right choice
SELECT ia3_predict('topics', 'my refund');
SELECT ia3_predict('topics', '{"text": "my refund"}'::jsonb, min_probability => 0.5);
SELECT ia3_predict('topics', text) FROM multi_shots;
SELECT ia3_predict_window('topics', text) OVER () FROM multi_shots;
SELECT ia3_predict_set('topics', 'my refund');
SELECT ia3_predict_version('topics', 1, 'my refund');
SELECT * FROM ia3_classify('topics', 'my refund', depth => 1);
SELECT ia3_predict_labels('single', 'my refund');
SELECT ia3_predict_labels('topics', 'my refund', min_probability => 1.5);
SELECT ia3_predict_labels('own', 'my refund');
SELECT ia3_predict_labels('no such task', 'my refund');
SELECT * FROM ia3_confusion('topics', 'TABLE multi_rows');
SELECT * FROM ia3_compare('topics', 'single', 'SELECT text, one FROM multi_shots');
SELECT * FROM ia3_coverage_curve('topics', 'SELECT text, one FROM multi_shots');
SELECT ia3_plot('topics', 'SELECT text, one FROM multi_shots');
SELECT ia3_plot_calibration('topics', 'SELECT text, one FROM multi_shots');
SELECT * FROM ia3_evaluate('single', 'TABLE multi_rows');
SELECT * FROM ia3_cross_validate('TABLE multi_rows', steps => 5);
SELECT * FROM ia3_learning_curve('TABLE multi_rows', steps => 5);
CALL ia3_pretrain('pre', 'SELECT text, labels AS label, 1 AS task FROM multi_shots', steps => 5);
CREATE TABLE multi_target (id int PRIMARY KEY, text text, label text);
INSERT INTO multi_target SELECT id, text FROM multi_shots;
CALL ia3_label('multi_target', 'topics', 'text', 'label');
SELECT ia3_watch('multi_target', 'topics', 'text', 'label');
SELECT inference_flops > 0 AS cost FROM ia3_cost('topics');
SELECT ia3_generate('topics', 'my refund', 1) IS NOT NULL AS generated;

SELECT count(ia3_drop(task)) FROM (SELECT task FROM ia3.task WHERE task IN ('topics', 'single', 'worded', 'words', 'words_of', 'described', 'own', 'weighed', 'lora', 'copied', 'renamed', 'limits', 'calibrated', 'later', 'later copy', 'later import', 'shorter', 'rare') OR task LIKE 'fold %') t;
DROP TABLE multi_known, multi_target, multi_folds, multi_held_out;
DROP VIEW multi_rows;
DROP TABLE multi_shots;
DROP FUNCTION multi_wrong(), multi_words(text[]), multi_expected(text, float8), multi_f1(text, float8, float8), multi_loss(float8);
