-- check_task: trains a few steps on a relation and compares the result with what can be determined without ia3.
SET client_min_messages = warning;
-- as T-Few does
SET ia3.max_input_tokens = 256;

CREATE SEQUENCE test_number;

CREATE FUNCTION ok(passed bool, name text, detail text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN passed THEN 'ok ' ELSE 'not ok ' END || nextval('test_number') || ' - ' || name
        || CASE WHEN passed THEN '' ELSE E'\n#   ' || detail END
$$;

CREATE FUNCTION is(got text, expected text, name text) RETURNS text LANGUAGE sql AS $$
    SELECT ok(got IS NOT DISTINCT FROM expected, name, format('got %s, expected %s', got, expected))
$$;

-- The relation has the columns id, label, the fields, prompt (which the first template has to produce) and, if `common` is
-- NULL, choices.
CREATE FUNCTION check_task(relation text, n int, n_choices int, templates text[], common text[] DEFAULT NULL,
    truncation text DEFAULT 'longest')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    version int;
    a record;
    b record;
    choices text := CASE WHEN common IS NULL THEN 'e.choices' ELSE quote_literal(common) || '::text[]' END;
BEGIN
    EXECUTE format('SELECT count(*) AS n, bool_and(e.label = ANY (%1$s)) AS labelled, min(cardinality(%1$s)) AS low,'
        ' max(cardinality(%1$s)) AS high,'
        ' count(*) FILTER (WHERE ia3_render(%3$L, to_jsonb(e), %1$s) IS DISTINCT FROM e.prompt) AS wrong FROM %2$s e',
        choices, relation, templates[1]) INTO a;
    RETURN NEXT is(a.n::text, n::text, relation || ': number of examples');
    RETURN NEXT ok(a.labelled AND a.low = n_choices AND a.high = n_choices, relation || ': choices of every row',
        a::text);
    RETURN NEXT is(a.wrong::text, '0', relation || ': the first template gives the prompt');

    version := ia3_train(relation, format('SELECT * FROM %s ORDER BY id', relation), template => templates,
        choices => common, steps => 5, batch_size => 4, seed => 1, truncate => truncation);
    SELECT * INTO a FROM ia3.adapters t WHERE t.task = relation AND t.active;
    RETURN NEXT is(format('%s, %s examples, %s steps', a.version, a.examples, a.metrics ->> 'steps'),
        format('%s, %s examples, 5 steps', version, n), relation || ': trained');
    -- counted independently, </s> included
    EXECUTE format('SELECT count(*) AS n FROM %s e, unnest(%L::text[]) t WHERE (SELECT count(*) FROM'
        ' ia3_tokenize(ia3_render(t, to_jsonb(e), %s))) > current_setting(''ia3.max_input_tokens'')::int',
        relation, templates, choices) INTO b;
    RETURN NEXT is(a.metrics ->> 'truncated', b.n::text, relation || ': texts that were cut');
    RETURN NEXT ok(a.loss > 0 AND jsonb_array_length(a.metrics -> 'loss_curve') = 5, relation || ': losses', a.metrics::text);

    EXECUTE format('SELECT count(*) AS n, count(*) FILTER (WHERE c.choice = ANY (%1$s)) AS own, count(DISTINCT e.id) AS rows,'
        ' sum(c.rank) AS ranks, round(sum(c.probability)::numeric, 6) AS p'
        ' FROM %2$s e, ia3_classify(%2$L, to_jsonb(e), %1$s) c', choices, relation) INTO a;
    RETURN NEXT is(format('%s answers, %s own, %s rows, ranks %s, probability %s', a.n, a.own, a.rows, a.ranks, a.p),
        format('%s answers, %1$s own, %s rows, ranks %s, probability %s.000000', n * n_choices, n,
            n * n_choices * (n_choices + 1) / 2, n), relation || ': asked about every row');
END $$;
