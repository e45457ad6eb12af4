-- RAFT with T-Few's prompts: the instruction, the possible labels, "Field: value" for the fields of the task in the order of
-- the data's columns, and "Label:" at the end.

-- Braces in an instruction are text.
CREATE FUNCTION raft_template(relation text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(replace(trim(i.doc ->> relation), '{', '{{'), '}', '}}') || ' Possible labels: {choices} '
           || (SELECT string_agg(format('%1$s: {%1$s}', attname), ' ' ORDER BY attnum) FROM pg_attribute
                WHERE attrelid = ('raft.' || relation)::regclass AND f.doc -> relation ? attname::text)
           || E'\nLabel:'
      FROM settings f, settings i WHERE f.line = 1 AND i.line = 2
$$;

-- The same prompts without templates.
CREATE FUNCTION raft_prompt(relation text, fields jsonb, choices text[]) RETURNS text LANGUAGE sql AS $$
    SELECT trim(i.doc ->> relation) || ' Possible labels: ' || array_to_string(choices, ', ')
           || (SELECT string_agg(' ' || attname || ': ' || coalesce(fields ->> attname::text, ''), '' ORDER BY attnum) FROM pg_attribute
                WHERE attrelid = ('raft.' || relation)::regclass AND f.doc -> relation ? attname::text)
           || E'\nLabel:'
      FROM settings f, settings i WHERE f.line = 1 AND i.line = 2
$$;

CREATE FUNCTION check_raft(relation text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    labels text[];
BEGIN
    EXECUTE format('SELECT array_agg(DISTINCT "Label" ORDER BY "Label") FROM raft.%I', relation) INTO labels;
    EXECUTE format('CREATE VIEW %1$I AS SELECT r."ID"::int AS id, r.*, r."Label" AS label, raft_prompt(%1$L, to_jsonb(r), %2$L) AS prompt'
        ' FROM raft.%1$I r', relation, labels);
    RETURN QUERY SELECT check_task(relation, 50, cardinality(labels), ARRAY[raft_template(relation)], labels, 'end');
END $$;

SELECT check_raft(relname) FROM pg_class WHERE relnamespace = 'raft'::regnamespace ORDER BY relname;
SELECT is(count(*)::text, '11', 'RAFT has 11 tasks') FROM pg_class WHERE relnamespace = 'raft'::regnamespace;
SELECT ok(raft_template('tai_safety_research') ~ 'Title: \{Title\} Abstract Note: \{Abstract Note\} Publication Year: \{Publication Year\} '
    'Item Type: \{Item Type\} Publication Title: \{Publication Title\}\nLabel:$', 'fields in the order of the columns');
-- the 77 labels of banking_77, which precede the text, do not fit; T-Few cuts them off with all that follows
SELECT is(count(*)::text, '11', 'the end is cut off') FROM ia3.adapters WHERE recipe ->> 'truncate' = 'end';
-- the tail is preserved in texts of any length
SELECT is(count(*) FILTER (WHERE a.score = b.score)::text, count(*)::text, 'what is beyond the limit has no influence')
  FROM one_stop_english e, ia3_classify('one_stop_english', to_jsonb(e)) a,
       ia3_classify('one_stop_english', to_jsonb(e) || jsonb_build_object('Article', e."Article" || ' The end.')) b
 WHERE a.choice = b.choice AND length(e."Article") > 3000;
