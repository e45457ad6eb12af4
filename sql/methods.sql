-- The methods that (IA)3 is compared with, selected by an option of ia3_train.
SET client_min_messages = warning;

CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');

CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, NULLIF(detail, ''), NULLIF(hint, ''));
END $$;

-- each method trains: the loss falls, the version records the method, and the task can be used
CREATE TABLE method (name text, rate float8);
INSERT INTO method VALUES ('ia3', 0.02), ('lora', 0.3), ('bitfit', 0.05), ('layernorm', 0.02), ('prompt', 0.3);
SELECT name, ia3_train(name, 'SELECT text, label FROM shots ORDER BY id', method => name, steps => 30,
                       learning_rate => rate, dropout => 0, seed => 7)
  FROM method;
SELECT task, method, recipe ->> 'method' AS recorded, (metrics -> 'loss_curve' ->> 0)::float8 - loss > 0.1 AS fell
  FROM ia3.adapters ORDER BY task;
SELECT name, count(*) FILTER (WHERE ia3_predict(name, text) = label) >= 5 AS learnt
  FROM method, shots GROUP BY name ORDER BY name;
-- a batch with all methods gives the same scores as each method alone
WITH together AS MATERIALIZED (
    SELECT m.name, s.id, c.choice, c.score FROM method m, shots s, ia3_classify(m.name, s.text) c)
SELECT name, max(abs(t.score - c.score)) < 0.05 AS same
  FROM together t JOIN shots s USING (id), ia3_classify(t.name, s.text) c
 WHERE c.choice = t.choice GROUP BY name ORDER BY name;
SELECT name, ia3_generate(name, 'my card was charged', 3) IS NOT NULL AS writes FROM method ORDER BY name;

-- the default learning rate of a method is that of T-Few
SELECT name, ia3_train('default_' || name, 'SELECT text, label FROM shots', method => name, steps => 1, seed => 1)
  FROM method;
SELECT method, recipe -> 'learning_rate' AS learning_rate, recipe -> 'steps' AS steps
  FROM ia3.adapters WHERE task LIKE 'default%' ORDER BY method;

-- the same seed gives the same bits; training can start from a version of the same method only
SELECT ia3_train('lora', 'SELECT text, label FROM shots ORDER BY id', method => 'lora', steps => 30, learning_rate => 0.3,
                 dropout => 0, seed => 7, activate => false) AS again;
SELECT count(DISTINCT digest) FROM ia3.adapters WHERE task = 'lora';
SELECT ia3_train('lora', 'SELECT text, label FROM shots', method => 'lora', init => 'lora@1', steps => 2, seed => 1);
SELECT attempt($$SELECT ia3_train('lora', 'SELECT text, label FROM shots', init => 'lora@1', steps => 2)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', method => 'adapter')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', method => 'IA3')$$);

-- exchange: export and import; a configuration where PEFT has the method; no merging
SELECT name, ia3_import('copy_' || name, ia3_export(name || '@1')) FROM method;
SELECT c.task, c.method, c.digest = o.digest AS same
  FROM ia3.adapters c JOIN ia3.adapters o ON o.task = substr(c.task, 6) AND o.version = 1
 WHERE c.task LIKE 'copy%' ORDER BY c.task;
-- a version records its method and the constants of this; a dump made before there was the column has neither
SELECT name, a.method, a.recipe -> 'method_options' AS options
  FROM method JOIN ia3.adapter a ON a.task IN (name, 'copy_' || name) AND a.version = 1 ORDER BY name, a.task;
BEGIN;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 90, vectors, backbone_digest, recipe - 'method_options', created_by
  FROM ia3.adapter WHERE task IN ('lora', 'copy_prompt') AND version = 1;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 90, vectors, backbone_digest, recipe - 'method', created_by
  FROM ia3.adapter WHERE task IN ('ia3', 'copy_ia3') AND version = 1;
SELECT task, method FROM ia3.adapter WHERE version = 90 ORDER BY task;
SELECT ia3_predict('lora@90', text) = ia3_predict('lora@1', text) AS same FROM shots LIMIT 1;
ROLLBACK;

SELECT jsonb_pretty(ia3_export_config(name) - 'base_model_name_or_path') FROM method WHERE name IN ('lora', 'prompt');
SELECT name, attempt(format('SELECT ia3_export_config(%L)', name)) FROM method WHERE name IN ('bitfit', 'layernorm');
SELECT attempt($$SELECT ia3_import('copy', ia3_export('lora'), ia3_export_config('lora'))$$);
SELECT name, attempt(format('SELECT ia3_merge(%L, %L)', name, current_setting('data_directory') || '/merged'))
  FROM method WHERE name <> 'ia3' ORDER BY name;

SELECT count(*) FROM (SELECT ia3_drop(task) FROM ia3.task) dropped;
DROP TABLE method, shots;
DROP FUNCTION attempt;
