-- What predicting, training and in-context learning cost: the paper's estimates, and what the engine counts.
SET client_min_messages = warning;
\set t0_3b '\'{"model_type": "t5", "vocab_size": 32128, "d_model": 2048, "d_kv": 64, "num_heads": 32, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24, "feed_forward_proj": "gated-gelu"}\''
\set t0_11b '\'{"model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}\''
\set gpt3 '\'{"model_type": "gpt2", "vocab_size": 50257, "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}\''

-- table 1 of the paper: T-Few with T0-11B, and in-context learning with GPT-3 175B
SELECT to_char(paper_inference_flops, '9.9EEEE') AS inference, to_char(paper_training_flops, '9.9EEEE') AS training,
       stored_bytes, parameters, backbone_parameters FROM ia3_cost(config => :t0_11b);
SELECT to_char(paper_icl_flops, '9.9EEEE') AS in_context, paper_inference_flops = 2.0 * backbone_parameters * 103 AS inference,
       paper_training_flops = 6.0 * backbone_parameters * 103 * 8000 AS training, backbone_parameters FROM ia3_cost(config => :gpt3);
-- in-context learning with T5+LM, which has the sizes of T0-11B
SELECT to_char(paper_icl_flops, '9.9EEEE') AS in_context FROM ia3_cost(config => :t0_11b);
-- counted exactly; a model of type gpt2 is not trained
\x on
SELECT * FROM ia3_cost(config => :t0_11b);
SELECT * FROM ia3_cost(config => :t0_3b, dtype => 'float32');
SELECT * FROM ia3_cost(config => :t0_3b, dtype => 'int8');
SELECT * FROM ia3_cost(config => :gpt3);
SELECT * FROM ia3_cost(config => :t0_11b, tokens => 200, choices => 4, choice_tokens => 3, shots => 5, shot_tokens => 50,
                       steps => 100, batch_size => 2, method => 'ia3', dtype => 'float32');
\x off

-- by hand: one layer, a width of two, a head of one, one token of input, one choice of one token
SELECT inference_flops, -- encoder 4*2+2*2*4 and attention 2, decoder 6*2+2*2*4 and keys 2*2 and attention 2+2, head 10*2
       2 * (4*2 + 2*2*4 + 2 + 6*2 + 2*2*4 + 2*2 + 2 + 2 + 10*2) AS expected,
       training_flops, -- the same backward without q, k, v of the first layers, with the head twice and 4, 4 and 5 for attention
       2 * (4*2 + 2*2*4 + 2 + 6*2 + 2*2*4 + 2*2 + 2 + 2 + 10*2) +
       2 * (2 + 2*2*4 + 4 + 3*2 + 2*2*4 + 2*2 + 4 + 5 + 2*10*2) AS expected
  FROM ia3_cost('{"model_type": "t5", "vocab_size": 10, "d_model": 2, "d_kv": 1, "num_heads": 1, "d_ff": 4, "num_layers": 1}'::jsonb,
                tokens => 2, choices => 1, choice_tokens => 1, steps => 1, batch_size => 1);

-- variants: defaults as in transformers' configurations; what is null is missing
CREATE FUNCTION parameters(config text) RETURNS bigint LANGUAGE sql AS $$ SELECT backbone_parameters FROM ia3_cost(config::jsonb) $$;
CREATE FUNCTION sizes(members text DEFAULT '') RETURNS text LANGUAGE sql AS
    $$ SELECT '{"model_type": "t5", "vocab_size": 100, "d_model": 8, "d_kv": 2, "num_heads": 4, "d_ff": 16, "num_layers": 2' || members || '}' $$;
SELECT parameters(sizes()), parameters(sizes(', "num_decoder_layers": 3')), parameters(sizes(', "num_decoder_layers": null')),
       parameters(sizes(', "feed_forward_proj": "gated-silu"')), parameters(sizes(', "is_gated_act": true')),
       parameters(sizes(', "feed_forward_proj": "gated-silu", "is_gated_act": false')), parameters(sizes(', "model_type": "mt5"')),
       parameters(sizes(', "model_type": "umt5"')), parameters(sizes(', "relative_attention_num_buckets": 4'));
-- with dropout, choices do not share a start token in training
SELECT (ia3_cost(sizes(', "dropout_rate": 0')::jsonb)).training_flops < (ia3_cost(sizes(', "dropout_rate": 0.1')::jsonb)).training_flops,
       (ia3_cost(sizes()::jsonb)).training_flops = (ia3_cost(sizes(', "dropout_rate": 0.1')::jsonb)).training_flops;

-- the configuration of a backbone, and its parameters: all but the embeddings
SELECT ia3_backbone_config('default');
SELECT backbone_parameters + (config ->> 'vocab_size')::bigint * (config ->> 'd_model')::bigint =
           (SELECT parameters FROM ia3_stat_engine WHERE backbone = 'default')
  FROM ia3_backbone_config('default') config, ia3_cost(config);

-- a task: its backbone, method and choices. Both labels have three tokens, of which they share none.
CREATE TABLE shots (text text, label text);
INSERT INTO shots SELECT 'my invoice is wrong', l FROM unnest(ARRAY['bug', 'billing', 'bug', 'billing']) l;
SELECT max(position) FROM ia3_tokenize('my invoice is wrong');
SELECT m AS method, ia3_train('cost_' || m, 'SELECT * FROM shots', method => m, steps => 3, batch_size => 4, seed => 1)
  FROM unnest(ARRAY['ia3', 'lora', 'adapter', 'compacter', 'compacter++', 'bitfit', 'layernorm', 'prompt', 'prefix', 'said', 'full', 'fish']) m;
SELECT to_jsonb(c) - 'inference_memory_bytes' - 'training_memory_bytes' = -- the engine's dtype depends on the processor
       to_jsonb(d) - 'inference_memory_bytes' - 'training_memory_bytes' AS same
  FROM ia3_cost('cost_ia3', tokens => 13) c,
       ia3_cost(ia3_backbone_config('default'), tokens => 13, choices => 2, choice_tokens => 3) d;
-- a version has as many values as the function says, and the engine has counted as much as the formula
SELECT a.method, a.method = m AS as_recorded,
       c.stored_bytes = octet_length(a.vectors) - 8 - get_byte(a.vectors, 0) - 256 * get_byte(a.vectors, 1) AS stored,
       CASE m WHEN 'fish' THEN c.training_flops > ia3.json_number(a.metrics, 'flops') -- for draws that are not needed without dropout
                          ELSE c.training_flops = ia3.json_number(a.metrics, 'flops') END AS flops, c.inference_flops >= bare.inference_flops AS more
  FROM unnest(ARRAY['ia3', 'lora', 'adapter', 'compacter', 'compacter++', 'bitfit', 'layernorm', 'prompt', 'prefix', 'said', 'full', 'fish']) m, ia3.adapter a,
       ia3_cost('cost_' || m || '@1', tokens => 13, steps => 3, batch_size => 4) c,
       ia3_cost('cost_ia3', tokens => 13) bare
 WHERE a.task = 'cost_' || m ORDER BY a.task;
SELECT ia3_train('cost_lora', 'SELECT * FROM shots', method => 'lora', rank => 9, targets => '{k,wi_1}', steps => 3, batch_size => 4,
                 seed => 1, activate => false) AS with_options;
SELECT c.stored_bytes = octet_length(a.vectors) - 8 - get_byte(a.vectors, 0) - 256 * get_byte(a.vectors, 1) AS stored,
       c.training_flops = ia3.json_number(a.metrics, 'flops') AS flops
  FROM ia3.adapter a, ia3_cost('cost_lora@2', tokens => 13, steps => 3, batch_size => 4) c WHERE a.task = 'cost_lora' AND a.version = 2;
SELECT ia3_train('cost_ia3', 'SELECT * FROM shots', targets => '{q,o,wo}', steps => 3, batch_size => 4, seed => 1, activate => false) AS with_targets;
SELECT c.stored_bytes = octet_length(a.vectors) - 8 - get_byte(a.vectors, 0) - 256 * get_byte(a.vectors, 1) AS stored,
       c.training_flops = ia3.json_number(a.metrics, 'flops') AS flops, c.inference_flops = usual.inference_flops AS inference
  FROM ia3.adapter a, ia3_cost('cost_ia3@2', tokens => 13, steps => 3, batch_size => 4) c, ia3_cost('cost_ia3@1', tokens => 13) usual
 WHERE a.task = 'cost_ia3' AND a.version = 2;
-- options are given as in training; a version's own are the default of its method only
WITH usual AS (SELECT inference_flops FROM ia3_cost(config => :t0_3b))
SELECT 'lora' AS method, parameters, inference_flops > (TABLE usual) AS more FROM ia3_cost(config => :t0_3b, method => 'lora', rank => 1) UNION ALL
SELECT 'lora and ia3', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'lora', vectors => true) UNION ALL
SELECT 'lora of q and v', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'lora', targets => '{q,v}', norms => false) UNION ALL
SELECT 'adapter', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'adapter', bottleneck => 32) UNION ALL
SELECT 'prompt', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'prompt', prompt_length => 100, decoder => false) UNION ALL
SELECT 'prefix', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'prefix', prefix_length => 10) UNION ALL
SELECT 'said', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, method => 'said', intrinsic_dim => 500000) UNION ALL
SELECT 'full', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b::jsonb || '{"tie_word_embeddings": false}', method => 'full') UNION ALL
SELECT 'fish', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b::jsonb || '{"tie_word_embeddings": false}', method => 'fish') UNION ALL
SELECT 'fish', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b::jsonb || '{"tie_word_embeddings": false}', method => 'fish', keep_ratio => 0.0002) UNION ALL
SELECT 'ia3', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, targets => '{q,k,v,o,wo}') UNION ALL
SELECT 'ia3 of wo', parameters, inference_flops > (TABLE usual) FROM ia3_cost(config => :t0_3b, targets => '{wo}');
SELECT (ia3_cost('cost_lora@2')).parameters = (ia3_cost('cost_lora', rank => 9, targets => '{k,wi_1}')).parameters AS as_recorded,
       (ia3_cost('cost_lora@2', rank => 18)).parameters - (ia3_cost('cost_lora@2')).parameters =
       (ia3_cost('cost_lora@2')).parameters - (SELECT parameters FROM ia3_cost('cost_lora@1', method => 'layernorm')) AS twice,
       (ia3_cost('cost_lora@2', method => 'bitfit')).parameters = (ia3_cost('cost_bitfit')).parameters AS other_method;
-- a prefix is trained through a network, which has 151 million values for T0-3B: three numbers of four bytes each, beside those of the prefix
SELECT (x.training_memory_bytes - p.training_memory_bytes) / (12 * (72 * 4096 * 513 + 3 * (2 * 2048 + 512 * 2049)))::float8 BETWEEN 0.9 AND 1.1 AS network,
       x.training_flops / x.inference_flops > p.training_flops / p.inference_flops AS more
  FROM ia3_cost(config => :t0_3b, method => 'prefix') x, ia3_cost(config => :t0_3b, method => 'prompt', prompt_length => 2) p;
-- passes use other values than those that are stored: two vectors for each linear layer, one for each norm
SELECT d.parameters - c.parameters AS stored, d.inference_memory_bytes - c.inference_memory_bytes AS used,
       d.training_memory_bytes - c.training_memory_bytes AS trained, c.inference_flops = d.inference_flops AS same,
       (c.inference_memory_bytes - bare.inference_memory_bytes) / 4 + bare.parameters AS expanded
  FROM ia3_cost(config => :t0_3b, method => 'said') c, ia3_cost(config => :t0_3b, method => 'said', intrinsic_dim => 500000) d,
       ia3_cost(config => :t0_3b) bare;
-- the engine counts what predictions take: an input this short has keys and values on every processor, and repeated ones count once
CREATE FUNCTION flops_of(query text, OUT shown float8, OUT counted float8) LANGUAGE plpgsql AS $$
DECLARE
    before float8;
    line text;
BEGIN
    SELECT score_flops INTO before FROM ia3_stat_engine;
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        shown := COALESCE(substring(line FROM 'FLOPs: (\d+)')::float8, shown);
    END LOOP;
    SELECT score_flops - before INTO counted FROM ia3_stat_engine;
END $$;
SELECT m AS method, shown = c.inference_flops AS shown, counted = c.inference_flops AS counted
  FROM unnest(ARRAY['ia3', 'lora', 'adapter', 'compacter', 'compacter++', 'bitfit', 'layernorm', 'prompt', 'prefix', 'said', 'full', 'fish']) m, ia3_cost('cost_' || m, tokens => 13) c,
       flops_of(format('SELECT ia3_predict(%L, text) FROM shots', 'cost_' || m));
SELECT shown = counted AS same, shown / c.inference_flops AS inputs
  FROM ia3_cost('cost_ia3', tokens => 13) c,
       flops_of('SELECT ia3_predict(''cost_ia3'', t) FROM unnest(ARRAY[''my invoice is wrong'', ''is my invoice wrong'']) t');
-- a generated text of one token: the same as a choice of one
SELECT shown = counted AS same, shown = c.inference_flops AS one_token
  FROM ia3_cost('cost_ia3', tokens => 8, choices => 1, choice_tokens => 1) c,
       flops_of('SELECT ia3_generate(''cost_ia3'', text, 1) FROM shots');
SELECT train_flops > 0 FROM ia3_stat_engine;
-- choices of the call instead of the task's; another method than the version's; a task without choices
SELECT (ia3_cost('cost_ia3', choices => 3, choice_tokens => 3)).inference_flops = (ia3_cost('cost_ia3', choices => 3)).inference_flops,
       (ia3_cost('cost_ia3', method => 'lora')).stored_bytes = (ia3_cost('cost_lora')).stored_bytes,
       (ia3_cost('cost_ia3', dtype => 'float32')).inference_memory_bytes > (ia3_cost('cost_ia3', dtype => 'bfloat16')).inference_memory_bytes;
UPDATE ia3.task SET choices = NULL WHERE task = 'cost_ia3';
SELECT (ia3_cost('cost_ia3')).inference_flops = (ia3_cost(ia3_backbone_config('default'))).inference_flops;

-- errors
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
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;
\pset format unaligned
\pset tuples_only on
SELECT attempt('SELECT ia3_cost(config => NULL)'), attempt('SELECT ia3_cost(task => NULL)'),
       ia3_backbone_config(NULL) IS NULL;
SELECT a, attempt(format('SELECT ia3_cost(%L::jsonb, %s => NULL)', sizes(), a))
  FROM unnest(ARRAY['tokens', 'choices', 'choice_tokens', 'shots', 'shot_tokens', 'steps', 'batch_size', 'method', 'dtype']) a;
SELECT a, attempt(format('SELECT ia3_cost(''cost_lora'', %s => NULL)', a))
  FROM unnest(ARRAY['tokens', 'choices', 'choice_tokens', 'shots', 'shot_tokens', 'steps', 'batch_size', 'method', 'dtype']) a;
SELECT a, attempt(format('SELECT ia3_cost(%L::jsonb, %s => 0)', sizes(), a)), attempt(format('SELECT ia3_cost(''cost_ia3'', %s => -1)', a))
  FROM unnest(ARRAY['tokens', 'choices', 'choice_tokens', 'shots', 'shot_tokens', 'steps', 'batch_size']) a;
SELECT attempt(format('SELECT ia3_cost(%L::jsonb, %s)', sizes(), a))
  FROM unnest(ARRAY['tokens => 10', 'choices => 51', 'choices => 2147483647, choice_tokens => 2147483647', 'dtype => ''float16''', 'tokens => 11']) a;
SELECT attempt(format('SELECT ia3_cost(%L::jsonb)', c)) FROM unnest(ARRAY['[]', '7', '{}', '{"model_type": null}', '{"model_type": 5}',
    '{"model_type": "bert"}', '{"model_type": "t5"}', '{"model_type": "gpt2", "vocab_size": 10}']) c;
SELECT m, attempt(format('SELECT ia3_cost(%L::jsonb - %L)', sizes(), m))
  FROM unnest(ARRAY['vocab_size', 'd_model', 'd_kv', 'num_heads', 'd_ff', 'num_layers']) m;
SELECT m, attempt(format('SELECT ia3_cost(%L::jsonb)', sizes(', ' || m))) FROM unnest(ARRAY['"d_model": 0', '"d_model": -8', '"d_model": 8.5',
    '"d_model": "8"', '"d_model": true', '"d_model": [8]', '"d_model": 1e400', '"d_model": 65537', '"num_layers": 1001', '"num_heads": 4096, "d_kv": 4096',
    '"feed_forward_proj": 5', '"is_gated_act": 1', '"dropout_rate": 1', '"dropout_rate": "no"', '"num_decoder_layers": 0',
    '"relative_attention_num_buckets": {}']) m;
SELECT attempt(format('SELECT ia3_cost(%L::jsonb, %s)', sizes(), o)), attempt(format('SELECT ia3_cost(''cost_lora'', %s)', o))
  FROM unnest(ARRAY['rank => 0', 'method => ''lora'', alpha => ''NaN''', 'method => ''lora'', targets => ''{q,w0}''', 'targets => ''{wi_1}''', 'bottleneck => 5',
    'method => ''prompt'', prompt_length => 1001', 'method => ''adapter'', rank => 4']) o;
-- what an engine finds wrong, when it is asked about a method
SELECT split_part(attempt(format('SELECT ia3_cost(%L::jsonb, method => %L)', sizes(), m)), E'\n', 1) FROM unnest(ARRAY['none', '']) m;
SELECT attempt(format('SELECT ia3_cost(%L::jsonb, method => ''lora'')', sizes(', "feed_forward_proj": "gated-tanh"'))),
       attempt(format('SELECT ia3_cost(%L::jsonb, method => ''lora'')', :gpt3));
-- the largest backbone and the largest numbers: FLOPs are finite, and bytes beyond a bigint are an error
SELECT attempt('SELECT ia3_cost(' || quote_literal('{"model_type": "umt5", "vocab_size": 10000000, "d_model": 65536, "d_kv": 32, "num_heads": 4096,
    "d_ff": 1048576, "num_layers": 1000, "relative_attention_num_buckets": 65536}') || '::jsonb, tokens => ' || tokens || ', shots => 2147483647,
    shot_tokens => 2147483647, steps => 2147483647, batch_size => ' || batch_size || ')')
  FROM (VALUES (103, 1), (2147483647, 1), (103, 2147483647)) v (tokens, batch_size);
SELECT attempt('SELECT ia3_cost(''{"model_type": "t5"}'')'), attempt('SELECT ia3_cost(''none such'')'),
       attempt('SELECT ia3_cost(''cost_ia3@7'')'), attempt('SELECT ia3_cost(''a@b'')'), attempt('SELECT ia3_backbone_config(''nowhere'')');

-- everybody may ask, but sees no tasks of others
CREATE ROLE cost_guest;
SET ROLE cost_guest;
SELECT parameters > 0 FROM ia3_cost(ia3_backbone_config('default'), method => 'lora');
SELECT attempt('SELECT ia3_cost(''cost_ia3'')');
RESET ROLE;
DROP ROLE cost_guest;

SELECT count(ia3_drop(task)) FROM ia3.task WHERE task LIKE 'cost%';
DROP FUNCTION attempt, parameters, sizes, flops_of;
DROP TABLE shots;
