-- The methods that (IA)3 is compared with, selected by an option of ia3_train.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
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
INSERT INTO method VALUES ('ia3', 0.02), ('lora', 0.3), ('adapter', 0.1), ('compacter', 0.1), ('compacter++', 0.1),
    ('bitfit', 0.05), ('layernorm', 0.02), ('prompt', 0.3), ('prefix', 0.1), ('said', 1), ('full', 0.003), ('fish', 0.1);
SELECT name, ia3_train(name, 'SELECT text, label FROM shots ORDER BY id', method => name,
                       steps => CASE name WHEN 'said' THEN 30 ELSE 12 END, batch_size => 6, learning_rate => rate, dropout => 0, seed => 7)
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
SELECT name, ia3_train('default_' || name, 'SELECT text, label FROM shots', method => name, steps => 1, dropout => 0, seed => 1)
  FROM method;
SELECT method, recipe -> 'learning_rate' AS learning_rate, recipe -> 'steps' AS steps
  FROM ia3.adapters WHERE task LIKE 'default%' ORDER BY method;
-- and so is its number of steps
SELECT ia3_train('steps', $$VALUES ('a', 'b')$$, method => 'adapter', choices => '{b,c}', batch_size => 1, seed => 1);
SELECT recipe -> 'steps' AS steps, metrics -> 'steps' AS taken FROM ia3.adapters WHERE task = 'steps';
SELECT ia3_drop('steps');

-- the same seed gives the same bits; training can start from a version of the same method only
SELECT ia3_train('lora', 'SELECT text, label FROM shots ORDER BY id', method => 'lora', steps => 12, batch_size => 6,
                 learning_rate => 0.3, dropout => 0, seed => 7, activate => false) AS again;
SELECT count(DISTINCT digest) FROM ia3.adapters WHERE task = 'lora';
SELECT ia3_train('lora', 'SELECT text, label FROM shots', method => 'lora', init => 'lora@1', steps => 2, seed => 1);
SELECT attempt($$SELECT ia3_train('lora', 'SELECT text, label FROM shots', init => 'lora@1', steps => 2)$$);
-- a prefix is what the network that it is trained through results in, also when training goes on
SELECT ia3_train('prefix', 'SELECT text, label FROM shots', method => 'prefix', init => 'prefix@1', steps => 2, dropout => 0, seed => 2, activate => false) AS further;
SELECT abs((b.metrics -> 'loss_curve' ->> 0)::float8 - (a.metrics -> 'loss_curve' ->> -1)::float8) < 0.5 AS goes_on
  FROM ia3.adapters a JOIN ia3.adapters b USING (task) WHERE task = 'prefix' AND a.version = 1 AND b.version = 2;
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', method => 'nonsense')$$);
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
SELECT ia3_train('old', 'SELECT text, label FROM shots', method => 'lora', norms => false, steps => 10, learning_rate => 0.3, seed => 1);
SELECT ia3_train('old_prompt', 'SELECT text, label FROM shots', method => 'prompt', decoder => false, steps => 10, seed => 1);
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 90, vectors, backbone_digest, recipe - 'method_options', created_by
  FROM ia3.adapter WHERE task IN ('old', 'old_prompt') AND version = 1;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 90, vectors, backbone_digest, recipe - 'method', created_by
  FROM ia3.adapter WHERE task IN ('ia3', 'copy_ia3') AND version = 1;
SELECT task, method FROM ia3.adapter WHERE version = 90 ORDER BY task;
SELECT ia3_predict('old@90', text) = ia3_predict('old@1', text) AS same,
       ia3_predict('old_prompt@90', text) = ia3_predict('old_prompt@1', text) AS same FROM shots LIMIT 1;
ROLLBACK;


--
-- Methods have options, which are recorded with the version
--
CREATE TABLE variant (task text, command text);
INSERT INTO variant VALUES
    ('r1', $$method => 'lora', rank => 1, learning_rate => 0.3, norms => false$$),
    ('r8_qv', $$method => 'lora', rank => 8, alpha => 16, targets => '{q,v}', norms => false, learning_rate => 0.2$$),
    ('r64_wo', $$method => 'lora', rank => 64, alpha => 0.5, targets => ARRAY['wo', 'wi', 'wo'], norms => false, learning_rate => 0.3$$),
    ('r2_k', $$method => 'lora', rank => 2, targets => '{k}', learning_rate => 0.05$$),
    ('lv', $$method => 'lora', rank => 2, norms => false, vectors => true, learning_rate => 0.2$$),
    ('i_all', $$targets => '{q,k,v,o,wo}', learning_rate => 0.02$$),
    ('i_wo', $$method => 'ia3', targets => '{wo}', learning_rate => 0.02$$),
    ('i_some', $$targets => '{EncDecAttention.q,EncDecAttention.k,SelfAttention.o,wo,SelfAttention.v}', learning_rate => 0.02$$),
    ('b_qv', $$method => 'bitfit', targets => '{q,v,wi_1}', learning_rate => 0.05$$),
    ('a3', $$method => 'adapter', bottleneck => 3, learning_rate => 0.1$$),
    ('c8', $$method => 'compacter', bottleneck => 8, learning_rate => 0.1$$),
    ('c64', $$method => 'compacter++', bottleneck => 64, learning_rate => 0.1$$),
    ('x1', $$method => 'prefix', prefix_length => 1, learning_rate => 0.1$$),
    ('x20', $$method => 'prefix', prefix_length => 20, learning_rate => 0.03$$),
    ('s500', $$method => 'said', intrinsic_dim => 500, learning_rate => 0.3$$),
    ('s5000', $$method => 'said', intrinsic_dim => 5000, learning_rate => 1$$),
    ('f20', $$method => 'fish', keep_ratio => 0.02, learning_rate => 0.05$$),
    ('p3', $$method => 'prompt', prompt_length => 3, learning_rate => 0.3$$),
    ('p100', $$method => 'prompt', prompt_length => 100, decoder => false, learning_rate => 0.3$$);
CREATE FUNCTION train(task text, options text, steps int DEFAULT 12) RETURNS text LANGUAGE sql AS $$
    SELECT attempt(format('SELECT ia3_train(%L, ''SELECT text, label FROM shots ORDER BY id'', steps => %s, batch_size => 6, dropout => 0, seed => 7, %s)',
                          task, steps, options))
$$;
-- some are slow to learn
SELECT task, train(task, command, CASE WHEN task IN ('r1', 'r8_qv', 'r64_wo', 'i_wo', 's500', 's5000') THEN 30 ELSE 12 END) FROM variant;
SELECT v.task, a.recipe -> 'method_options' AS options, length(a.vectors) / 1000 AS kb,
       (metrics -> 'loss_curve' ->> 0)::float8 - (metrics ->> 'loss')::float8 > 0.1 AS fell
  FROM variant v JOIN ia3.adapter a USING (task);
SELECT task, count(*) FILTER (WHERE ia3_predict(task, text) = label) >= 5 AS learnt
  FROM variant, shots GROUP BY task ORDER BY task;
-- they mix with all others in one batch
WITH together AS MATERIALIZED (
    SELECT m.task, s.id, c.choice, c.score FROM (SELECT task FROM variant UNION ALL SELECT name FROM method) m, shots s,
           ia3_classify(m.task, s.text) c)
SELECT task, max(abs(t.score - c.score)) < 0.05 AS same
  FROM together t JOIN shots s USING (id), ia3_classify(t.task, s.text) c
 WHERE c.choice = t.choice GROUP BY task ORDER BY task;
SELECT task, ia3_generate(task, 'my card was charged', 3) IS NOT NULL AS writes FROM variant ORDER BY task;
-- the same bytes with other options are another adapter: alpha is not among the vectors
BEGIN;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 90, vectors, backbone_digest, jsonb_set(recipe, '{method_options,alpha}', '0.001'), created_by
  FROM ia3.adapter WHERE task = 'r8_qv' AND version = 1;
SELECT max(abs(a.score - b.score)) > 0.01 AS differs
  FROM ia3_classify('r8_qv@1', 'refund') a JOIN ia3_classify('r8_qv@90', 'refund') b USING (choice);
ROLLBACK;
-- training continues with the options of the version that it starts from, and cannot change them
SELECT train('r8_qv', $$method => 'lora', init => 'r8_qv'$$, 1);
SELECT train('lora', $$method => 'lora', init => 'lora@1', rank => 4$$, 1);
SELECT version, recipe -> 'method_options' AS options FROM ia3.adapter WHERE task = 'r8_qv' ORDER BY version;
SELECT train('r8_qv', $$method => 'lora', init => 'r8_qv', rank => 4$$, 1);
SELECT train('r8_qv', $$method => 'lora', init => 'r8_qv', alpha => 1$$, 1);
SELECT train('x', $$method => 'prompt', init => 'lora'$$, 1);
-- options that a method does not have, values that are not allowed
SELECT options, train('x', options) FROM unnest(ARRAY[
    $$rank => 4$$, $$method => 'layernorm', targets => '{q}'$$, $$method => 'bitfit', norms => false$$, $$method => 'prompt', rank => 4$$,
    $$method => 'lora', prompt_length => 4$$, $$method => 'lora', rank => 0$$, $$method => 'lora', rank => 65$$,
    $$method => 'lora', rank => -1$$, $$method => 'lora', alpha => 0$$, $$method => 'lora', alpha => 'NaN'$$,
    $$method => 'lora', alpha => 'Infinity'$$, $$method => 'lora', targets => '{}'$$, $$method => 'lora', targets => '{q,w0}'$$,
    $$method => 'lora', targets => '{wi}'$$, $$method => 'lora', targets => '{q,NULL}'$$, $$method => 'lora', targets => '{{q}}'$$,
    $$method => 'adapter', bottleneck => -1$$, $$method => 'adapter', bottleneck => 513$$,
    $$method => 'compacter', bottleneck => 10$$, $$method => 'compacter++', rank => 4$$, $$method => 'ia3', bottleneck => 4$$,
    $$targets => '{k,wi_1}'$$, $$targets => '{}'$$, $$targets => '{DenseReluDense.o}'$$,
    $$method => 'prompt', prompt_length => 0$$, $$method => 'prompt', prompt_length => 1001$$,
    $$method => 'prefix', prefix_length => 257$$, $$method => 'prefix', prompt_length => 4$$, $$method => 'prompt', prefix_length => 4$$,
    $$method => 'said', intrinsic_dim => 2$$, $$method => 'said', intrinsic_dim => 20$$, $$method => 'said', rank => 1$$, $$intrinsic_dim => 500$$, $$vectors => true$$,
    $$method => 'fish', keep_ratio => 0$$, $$method => 'fish', keep_ratio => 1e-8$$, $$method => 'fish', keep_ratio => 1.5$$,
    $$method => 'fish', keep_ratio => 'NaN'$$, $$method => 'fish', rank => 1$$, $$method => 'full', keep_ratio => 0.1$$, $$keep_ratio => 0.1$$,
    $$method => 'fish', optimizer => 'adamw', weight_decay => 0.1$$]) options;
-- versions of earlier releases lack options, or have an older name for one
BEGIN;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 91, vectors, backbone_digest, jsonb_set(recipe, '{method_options}', '{"rank": 1}'), created_by
  FROM ia3.adapter WHERE task = 'r1' AND version = 1;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 91, vectors, backbone_digest, jsonb_set(recipe, '{method_options}', '{"tokens": 100}'), created_by
  FROM ia3.adapter WHERE task = 'p100' AND version = 1;
SELECT a.name, max(abs(x.score - y.score)) < 0.05 AS same
  FROM (VALUES ('r1'), ('p100')) a(name), ia3_classify(name || '@91', 'refund') x JOIN ia3_classify(name || '@1', 'refund') y USING (choice)
 GROUP BY a.name ORDER BY a.name;
SELECT train('p100', $$method => 'prompt', init => 'p100@91'$$, 1);
SELECT recipe -> 'method_options' AS options FROM ia3.adapter WHERE task = 'p100' AND version = 92;
ROLLBACK;
-- versions that this engine does not know, and records that contradict the vectors
BEGIN;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
SELECT task, 92 + n, vectors, backbone_digest, jsonb_set(recipe, '{method_options}', options), created_by
  FROM ia3.adapter, (VALUES (0, '{"rank": 4, "colour": "red"}'::jsonb), (1, '{"rank": 4000}'), (2, '{"rank": "four"}'), (3, '[4]'),
                            (4, '{"rank": 5}'), (5, '{"rank": 4, "targets": ["q"]}'), (6, '{"norms": 2}')) r(n, options)
 WHERE task = 'lora' AND version = 1;
SELECT version, attempt(format('SELECT ia3_predict(%L, %L)', 'lora@' || version, 'refund'))
  FROM ia3.adapter WHERE task = 'lora' AND version > 91 ORDER BY version;
ROLLBACK;
-- with its configuration an adapter comes back with all its options, without it with the defaults of what the bytes do not tell
SELECT v.task, ia3_import('copy_' || v.task, ia3_export(v.task || '@1'), ia3_export_config(v.task || '@1')) FROM variant v
 WHERE v.task NOT IN ('r2_k', 'b_qv', 'p3', 'x1', 'x20', 's500', 's5000', 'f20', 'lv');
SELECT v.task, ia3_import('copy_' || v.task, ia3_export(v.task || '@1')) FROM variant v WHERE v.task IN ('r2_k', 'b_qv', 'p3', 'x1', 'x20', 's500', 's5000', 'f20', 'lv');
SELECT attempt($$SELECT ia3_export_config('r2_k')$$);
SELECT attempt($$SELECT ia3_export_config('lv')$$);
SELECT attempt($$SELECT ia3_import('peft', ia3_export('lv'), '{"peft_type": "LORA", "r": 2, "lora_alpha": 1, "target_modules": ["q"]}')$$);
SELECT attempt($$SELECT ia3_import('peft', ia3_export('r2_k'), ia3_export_config('r1@1') || '{"r": 2}')$$);
SELECT a.task, a.recipe -> 'method_options' = b.recipe -> 'method_options' AS same_options, a.digest = b.digest AS same_bytes
  FROM ia3.adapter a JOIN ia3.adapter b ON b.task = substr(a.task, 6) AND b.version = 1 WHERE a.task LIKE 'copy\_%_%' ORDER BY a.task;
SELECT task, ia3_export_config(task) - 'base_model_name_or_path' AS config FROM (VALUES ('r8_qv@1'), ('r64_wo'), ('p100')) v(task);
SET client_min_messages = notice;
SELECT ia3_import('plain', ia3_export('r8_qv@1'));
SELECT ia3_import('plain', ia3_export('p100'));
SET client_min_messages = warning;
SELECT recipe -> 'method_options' AS options FROM ia3.adapter WHERE task = 'plain' ORDER BY version;
-- configurations as PEFT writes them, and what cannot be computed here
CREATE FUNCTION with_config(task text, changes jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT attempt(format('SELECT ia3_import(''peft'', ia3_export(%L), %L)', task, ia3_export_config(task) || changes))
$$;
SELECT with_config('r8_qv@1', '{"use_rslora": true, "lora_alpha": 4, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
    "layers_to_transform": null, "lora_bias": false, "init_lora_weights": "gaussian", "modules_to_save": null, "loftq_config": {}}');
SELECT recipe -> 'method_options' -> 'alpha' AS alpha FROM ia3.adapter WHERE task = 'peft';
SELECT changes, with_config('r8_qv@1', changes::jsonb) FROM unnest(ARRAY[
    '{"use_dora": true}', '{"modules_to_save": ["lm_head"]}', '{"rank_pattern": {"q": 4}}', '{"alpha_pattern": {"q": 4}}',
    '{"layers_to_transform": [0]}', '{"lora_bias": true}', '{"bias": "all"}', '{"init_lora_weights": "pissa_niter_4"}',
    '{"exclude_modules": ["q"]}', '{"r": 4}', '{"r": "8"}', '{"r": null}', '{"lora_alpha": null}', '{"lora_alpha": 0}',
    '{"target_modules": ["q"]}', '{"target_modules": "all-linear"}', '{"target_modules": null}', '{"target_modules": ["q", "v", "w0"]}',
    '{"target_modules": ["q", 7]}', '{"peft_type": "IA3"}', '{"peft_type": 3}', '{"peft_type": null}', '{"lora_alpha": 1e999}']) changes;
SELECT changes, with_config('p100', changes::jsonb) FROM unnest(ARRAY[
    '{"num_virtual_tokens": 50}', '{"num_virtual_tokens": null}', '{"num_transformer_submodules": 2}', '{"num_transformer_submodules": null}']) changes;
SELECT attempt($$SELECT ia3_import('peft', ia3_export('bitfit'), '{"peft_type": "LORA"}')$$);
SELECT attempt($$SELECT ia3_import('peft', ia3_export('lora'), '[]')$$);
-- PEFT's prefix tuning is another one; its tensor has the name of that of a prompt
SELECT attempt(format('SELECT ia3_import(''peft'', ia3_export(%L), ''{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2}'')', task))
  FROM (VALUES ('x1'), ('p3'), ('lora')) v(task);
SELECT attempt($$SELECT ia3_import('peft', ia3_export('lora'), '{"peft_type": "LN_TUNING"}')$$);
--
-- Versions that replace weights of the backbone
--
-- training goes on from them; fish keeps its mask
SELECT task, train(task, format($$method => %L, init => %L, learning_rate => 0.0001, activate => false$$, task, task), 2) FROM unnest('{full,fish}'::text[]) task;
SELECT b.task, abs((b.metrics -> 'loss_curve' ->> 0)::float8 - (a.metrics -> 'loss_curve' ->> -1)::float8) < 0.3 AS goes_on, length(a.vectors) = length(b.vectors) AS as_long
  FROM ia3.adapters x JOIN ia3.adapter a USING (task, version), ia3.adapter b
 WHERE x.task IN ('full', 'fish') AND a.version = 1 AND b.task = a.task AND b.version = 2 ORDER BY 1;
-- a mean of weights is one; that of weights in different places is not
SELECT attempt($$SELECT ia3_average('full', '{full@1,full@2}')$$), attempt($$SELECT ia3_average('fish', '{fish@1,fish@2}')$$);
-- members of an ensemble have weights of their own
SELECT train('many', $$method => 'full', ensemble => 2, learning_rate => 0.003$$, 4);
SELECT count(*) FROM shots WHERE ia3_predict('many', text) IS NOT NULL;
-- exchange with options
SELECT ia3_import_task(ia3_export_task('f20'), 'f20_again') IS NOT NULL AS imported;
SELECT ia3_predict('f20_again', text) = ia3_predict('f20@1', text) AS same FROM shots LIMIT 1;
DROP TABLE variant;
DROP FUNCTION with_config, train;

SELECT name, attempt(format('SELECT ia3_export_config(%L)', name)) FROM method WHERE name <> 'ia3';
SELECT name, attempt(format('SELECT ia3_merge(%L, %L)', name, current_setting('data_directory') || '/merged'))
  FROM method WHERE name <> 'ia3' ORDER BY name;

SELECT count(*) FROM (SELECT ia3_drop(task) FROM ia3.task) dropped;
DROP TABLE method, shots;
DROP FUNCTION attempt;
