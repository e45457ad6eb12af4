-- ensemble => N: a version with the vectors of N training runs, whose predictions are the mean of theirs.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;
-- the numbers of a safetensors file, as bytes
CREATE FUNCTION data(file bytea) RETURNS bytea IMMUTABLE LANGUAGE sql AS
    $$ SELECT substr(file, 9 + get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2)) $$;
CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
CREATE TABLE setting (name text, options text);
INSERT INTO setting VALUES ('i', $$learning_rate => 0.02$$), ('q', $$targets => '{q,o}', learning_rate => 0.02$$),
    ('l', $$method => 'lora', rank => 2, learning_rate => 0.3$$), ('p', $$method => 'prompt', prompt_length => 3, learning_rate => 0.3$$);
CREATE FUNCTION train(task text, seed int, options text) RETURNS text LANGUAGE sql AS $$
    SELECT attempt(format('SELECT ia3_train(%L, ''SELECT text, label FROM shots ORDER BY id'', steps => 8, batch_size => 4, seed => %s, %s)', task, seed, options))
$$;

-- the members are what is trained with as many seeds, one after another, bit by bit
SELECT name, train('e_' || name, 7, options || ', ensemble => 3') FROM setting;
SELECT name, s, train('m_' || name, s, options) FROM setting, generate_series(7, 9) s;
SELECT name, data(e.vectors) = (SELECT string_agg(data(m.vectors), '' ORDER BY m.version) FROM ia3.adapter m WHERE m.task = 'm_' || name) AS same_bits,
       count(DISTINCT m.digest) AS different
  FROM setting, ia3.adapter e, ia3.adapter m WHERE e.task = 'e_' || name AND m.task = 'm_' || name GROUP BY name, e.vectors ORDER BY name;
-- its scores are the means of theirs, alone and in a batch with them
CREATE VIEW mean AS
    SELECT name, id, c.choice, avg(c.score) AS score, max(c.score) - min(c.score) AS spread
      FROM setting, shots, generate_series(1, 3) v, ia3_classify('m_' || name || '@' || v, text) c GROUP BY name, id, c.choice;
SELECT name, count(*), max(abs(c.score - m.score)) < 0.01 AS mean, max(m.spread) > 0.02 AS members_differ
  FROM mean m JOIN shots USING (id), ia3_classify('e_' || name, text) c WHERE c.choice = m.choice GROUP BY name ORDER BY name;
WITH together AS MATERIALIZED (
    SELECT s.id, t, c.choice, c.score FROM (SELECT 'e_' || name FROM setting UNION ALL SELECT 'm_' || name || '@2' FROM setting) x(t), shots s,
           ia3_classify(t, s.text) c)
SELECT t, max(abs(b.score - c.score)) < 0.02 AS same
  FROM together b JOIN shots s USING (id), ia3_classify(t, s.text) c WHERE c.choice = b.choice GROUP BY t ORDER BY t;
-- so is what is computed from scores
SELECT name, bool_and(ia3_predict('e_' || name, text) = (SELECT choice FROM mean m WHERE m.name = s.name AND m.id = shots.id ORDER BY score DESC LIMIT 1)) AS best
  FROM setting s, shots GROUP BY name ORDER BY name;
SELECT max(abs(c.probability - exp(m.score) / (SELECT sum(exp(x.score)) FROM mean x WHERE x.name = m.name AND x.id = m.id))) < 0.01 AS probabilities
  FROM mean m JOIN shots USING (id), ia3_classify('e_i', text) c WHERE m.name = 'i' AND c.choice = m.choice;

-- what is recorded
SELECT task, method, ensemble, recipe -> 'method_options' AS options, recipe -> 'seed' AS seed, metrics -> 'steps' AS steps
  FROM ia3.adapters WHERE task LIKE 'e%' ORDER BY task;
SELECT e.metrics -> 'flops' = to_jsonb(sum((m.metrics ->> 'flops')::numeric)) AS flops, abs((e.metrics ->> 'loss')::float8 - avg((m.metrics ->> 'loss')::float8)) < 1e-5 AS loss
  FROM ia3.adapter e, ia3.adapter m WHERE e.task = 'e_l' AND m.task = 'm_l' GROUP BY e.metrics;
-- costs: three times a single version's, but for the memory that training takes
SELECT name, e.parameters = 3 * m.parameters AS parameters, e.stored_bytes = 3 * m.stored_bytes AS bytes, e.inference_flops = 3 * m.inference_flops AS inference,
       e.training_flops = 3 * m.training_flops AS training, e.icl_flops = m.icl_flops AS icl, e.training_memory_bytes = m.training_memory_bytes AS training_memory,
       to_jsonb(e) = to_jsonb(o) AS as_option
  FROM setting, ia3_cost('e_' || name) e, ia3_cost('m_' || name) m, ia3_cost('m_' || name, ensemble => 3) o ORDER BY name;
CREATE FUNCTION shown(task text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    line text;
    flops float8;
BEGIN
    FOR line IN EXECUTE format('EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT ia3_predict(%L, text) FROM shots', task) LOOP
        flops := COALESCE(substring(line FROM 'FLOPs: (\d+)')::float8, flops);
    END LOOP;
    RETURN flops;
END $$;
CREATE FUNCTION flops_of(task text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    before float8;
BEGIN
    SELECT score_flops INTO before FROM ia3_stat_engine;
    PERFORM ia3_predict(task, 'how much do I owe you');
    RETURN (SELECT score_flops - before FROM ia3_stat_engine);
END $$;
SELECT name, flops_of('e_' || name) = 3 * flops_of('m_' || name) AS three_times, abs(shown('e_' || name) - 3 * shown('m_' || name || '@1')) < 1 AS shown
  FROM setting ORDER BY name;

-- an ensemble goes on from a single version, with all its members, or from an ensemble with as many
SELECT train('from', 1, $$init => 'm_i@1', ensemble => 2$$), train('from', 1, $$init => 'm_i@1'$$), train('from', 2, $$init => 'm_i@1'$$);
SELECT data(a.vectors) = data(b.vectors) || data(c.vectors) AS same_bits FROM ia3.adapter a, ia3.adapter b, ia3.adapter c
 WHERE a.task = 'from' AND a.version = 1 AND b.task = 'from' AND b.version = 2 AND c.task = 'from' AND c.version = 3;
SELECT train('from', 1, $$init => 'e_l', method => 'lora'$$), train('from', 1, $$init => 'm_l@1', method => 'lora'$$), train('from', 2, $$init => 'm_l@2', method => 'lora'$$),
       train('from', 3, $$init => 'm_l@3', method => 'lora'$$);
SELECT data(a.vectors) = (SELECT string_agg(data(b.vectors), '' ORDER BY b.version) FROM ia3.adapter b WHERE b.task = 'from' AND b.version BETWEEN 5 AND 7) AS same_bits,
       a.recipe #> '{method_options,ensemble}' AS ensemble
  FROM ia3.adapter a WHERE a.task = 'from' AND a.version = 4;
SELECT train('x', 1, $$init => 'e_i', ensemble => 2$$), train('x', 1, $$init => 'e_i', ensemble => 1$$), train('x', 1, $$init => 'e_l', ensemble => 3$$);
CALL ia3_train_task('procedure', 'SELECT text, label FROM shots ORDER BY id', steps => 8, batch_size => 4, seed => 7, learning_rate => 0.02, ensemble => 3);
SELECT a.digest = b.digest AS same FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'procedure' AND b.task = 'e_i';
SELECT o, train('x', 1, 'ensemble => ' || o) FROM unnest(ARRAY['0', '33', '-1', 'NULL']) o;
SELECT ia3_drop('x');
-- what cannot be done with an ensemble
SELECT attempt($$SELECT ia3_generate('e_i', 'my card was charged', 3)$$);
SELECT attempt($$SELECT ia3_merge('e_i', '/tmp/ia3 ensemble')$$);
SELECT attempt($$SELECT ia3_export_config('e_i')$$);
CALL ia3_pretrain('x', 'SELECT ''t'' AS task, text, label FROM shots', init => 'e_i', steps => 2, batch_size => 1, checkpoint_every => 1);
-- exchange, copies, means
SELECT name, ia3_import('copy_' || name, ia3_export('e_' || name)) FROM setting WHERE name <> 'l';
SELECT name, a.digest = b.digest AS same, b.recipe -> 'method_options' AS options
  FROM setting, ia3.adapter a, ia3.adapter b WHERE a.task = 'e_' || name AND b.task = 'copy_' || name ORDER BY name;
SELECT attempt($$SELECT ia3_import('x', ia3_export('e_i'), ia3_export_config('m_i'))$$);
SELECT ia3_import_task(ia3_export_task('e_i'), 'again');
SELECT max(abs(a.score - b.score)) = 0 AS same FROM ia3_classify('e_i', 'pay') a JOIN ia3_classify('again', 'pay') b USING (choice);
SELECT train('e_i', 17, 'learning_rate => 0.02, ensemble => 3');
SELECT ia3_average('e_i', ARRAY['e_i@1', 'e_i@2']);
SELECT (recipe -> 'method_options')::text AS options, octet_length(data(vectors)) = (SELECT octet_length(data(vectors)) FROM ia3.adapter WHERE task = 'e_i' AND version = 1) AS size
  FROM ia3.adapter WHERE task = 'e_i' AND version = 3;
SELECT attempt($$SELECT ia3_average('e_i', ARRAY['e_i@1', 'm_i@1'])$$);

SELECT count(ia3_drop(task)) FROM ia3.task;
DROP VIEW mean;
DROP TABLE shots, setting;
DROP FUNCTION attempt, data, train, shown, flops_of;
