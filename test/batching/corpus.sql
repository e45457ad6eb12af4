-- Forms of queries, each run with batching on and off: rows and errors have to be the same. There is one statement per line.
--
-- name: lateral_inner
SELECT t.id, c.* FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE t.id <= 25;
-- name: lateral_orderby
SELECT t.id, c.choice, c.score FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE t.id <= 25 ORDER BY c.score DESC, t.id;
-- name: lateral_left
SELECT t.id, c.* FROM smalltk t LEFT JOIN LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c ON true;
-- name: lateral_left_on
SELECT t.id, c.* FROM smalltk t LEFT JOIN LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c ON c.score > .7 AND t.n > 10;
-- name: lateral_left_where_null
SELECT t.id, c.* FROM smalltk t LEFT JOIN LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c ON c.rank=1 AND c.score > .7 WHERE c.score IS NULL OR t.n % 2 = 0;
-- name: lateral_left_where_coalesce
SELECT t.id, coalesce(c.choice,'none') FROM smalltk t LEFT JOIN LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c ON c.rank=1 AND c.score > .6 WHERE coalesce(c.choice,'none') <> 'a';
-- name: quals_rank_score
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE c.rank = 1 AND c.score > .9 AND t.id < 25;
-- name: joinqual
SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b','c']) c WHERE c.rank + t.n % 3 = 2 AND c.score < t.n;
-- name: exprs_args
SELECT t.id, upper(c.choice) || t.n FROM smalltk t, LATERAL ia3_classify('t'||(t.n%2), 'x '||coalesce(t.body,'nil'), CASE WHEN t.n > 50 THEN ARRAY['a','b'] ELSE ARRAY['c','d','e'] END) c;
-- name: ordinality
SELECT t.id, c.* FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) WITH ORDINALITY c;
-- name: rows_from
SELECT t.id, c.* FROM smalltk t, LATERAL ROWS FROM (ia3_classify('topic',t.body,ARRAY['a','b']), generate_series(1,t.n%4)) c;
-- name: wholerow
SELECT t.id, c FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c;
-- name: wholerow_outer
SELECT t, c.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c;
-- name: ctid_outer
SELECT t.ctid, t.tableoid::regclass, c.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c;
-- name: two_laterals
SELECT t.id, c.choice, d.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c, LATERAL ia3_classify('mood',t.body,ARRAY['x','y']) d WHERE c.rank=1 AND d.rank=1;
-- name: chained_laterals
SELECT t.id, c.choice, d.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c, LATERAL ia3_classify('mood',t.body||c.choice,ARRAY['x','y']) d WHERE d.rank=1;
-- name: two_tables
SELECT a.name, t.id, c.choice FROM tasks a, smalltk t, LATERAL ia3_classify(a.instruction,t.body,a.choices) c WHERE c.rank=1;
-- name: two_tables_join
SELECT a.name, t.id, c.choice FROM tasks a JOIN smalltk t ON t.n % 2 + 1 = a.tid, LATERAL ia3_classify(a.instruction,t.body,a.choices) c WHERE c.rank=1;
-- name: three_then_join
SELECT t.id, c.choice, k.name FROM smalltk t CROSS JOIN LATERAL ia3_classify('topic',t.body,ARRAY['topic','mood']) c JOIN tasks k ON k.name = c.choice WHERE c.rank = 1;
-- name: limit1
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE c.rank = 1 ORDER BY t.id LIMIT 1;
-- name: limit3
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c ORDER BY t.id LIMIT 3;
-- name: limit_offset
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE c.rank=1 ORDER BY t.id LIMIT 7 OFFSET 5;
-- name: lateral_subquery_top1
SELECT t.id, c.* FROM smalltk t, LATERAL (SELECT choice, score FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) ORDER BY score DESC LIMIT 1) c;
-- name: lateral_subquery_agg
SELECT t.id, c.* FROM smalltk t, LATERAL (SELECT jsonb_object_agg(choice, score ORDER BY rank) j FROM ia3_classify('topic',t.body,ARRAY['a','b','c'])) c;
-- name: lateral_subquery_left
SELECT t.id, c.* FROM smalltk t LEFT JOIN LATERAL (SELECT choice, score FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) WHERE score > .5 ORDER BY score DESC LIMIT 1) c ON true;
-- name: sql_srf_inlined
SELECT t.id, c.* FROM smalltk t, LATERAL top1(t.body) c;
-- name: exists_corr
SELECT t.id FROM smalltk t WHERE EXISTS (SELECT 1 FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) c WHERE c.choice='a' AND c.score > .5);
-- name: not_exists_corr
SELECT t.id FROM smalltk t WHERE NOT EXISTS (SELECT 1 FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) c WHERE c.choice='a' AND c.score > .5);
-- name: in_corr
SELECT t.id FROM smalltk t WHERE 'a' IN (SELECT choice FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) c WHERE c.score > .5);
-- name: scalar_subq
SELECT t.id, (SELECT choice FROM ia3_classify('topic',t.body,ARRAY['a','b','c']) c WHERE rank=1) FROM smalltk t;
-- name: scalar_subq_2
SELECT t.id, (SELECT max(score) - min(score) FROM ia3_classify('topic',t.body||t.n,ARRAY['a','b','c']) c) FROM smalltk t WHERE t.n > 3 ORDER BY 2;
-- name: corr_outer_nested
SELECT a.tid, (SELECT count(*) FROM smalltk t, LATERAL ia3_classify(a.instruction,t.body,a.choices) c WHERE c.rank=1 AND c.score > .6) FROM tasks a;
-- name: nl_inner_rescan
SELECT a.tid, x.n, x.choice FROM tasks a LEFT JOIN LATERAL (SELECT t.n, c.choice FROM smalltk t, LATERAL ia3_classify(a.instruction,t.body,a.choices) c WHERE c.rank=1 AND t.n > a.tid * 10 ORDER BY t.n LIMIT 7) x ON true;
-- name: semi_join
SELECT a.name FROM tasks a WHERE a.name IN (SELECT c.choice FROM smalltk t, LATERAL ia3_classify('q',t.body,ARRAY['topic','mood','x']) c WHERE c.rank=1);
-- name: anti_join
SELECT a.name FROM tasks a WHERE NOT EXISTS (SELECT 1 FROM smalltk t, LATERAL ia3_classify('q',t.body,ARRAY['topic','zz','x']) c WHERE c.rank=1 AND c.choice=a.name);
-- name: union_all
SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c UNION ALL SELECT t.id, ia3_predict('topic',t.body,ARRAY['a','b']) FROM smalltk t;
-- name: cte
WITH w AS MATERIALIZED (SELECT t.id, c.choice, c.score FROM smalltk t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c) SELECT w1.id, w2.choice FROM w w1 JOIN w w2 USING (id);
-- name: cte_input
WITH w AS MATERIALIZED (SELECT * FROM smalltk WHERE n < 40) SELECT w.id, c.choice FROM w, LATERAL ia3_classify('topic',w.body,ARRAY['a','b']) c;
-- name: group_outer
SELECT g.grp, c.choice FROM (SELECT grp, string_agg(body, ' ' ORDER BY id) b FROM tickets GROUP BY grp) g, LATERAL ia3_classify('sum',g.b,ARRAY['a','b']) c;
-- name: group_by_choice
SELECT c.choice, count(*), round(avg(c.score)::numeric,4) FROM tickets t, LATERAL ia3_classify(t.task,t.body,t.choices) c WHERE c.rank=1 AND t.id <= 25 GROUP BY 1;
-- name: partitioned
SELECT t.id, c.choice FROM part t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c WHERE c.rank=1;
-- name: partitioned_scalar
SELECT id, ia3_predict('topic', body, ARRAY['a','b']) FROM part;
-- name: toasted
SELECT t.id, c.choice, length(t.body) FROM big t, LATERAL ia3_classify('topic',t.body,ARRAY['a','b']) c WHERE c.rank=1;
-- name: toasted_compressed
SELECT t.id, ia3_predict('topic',t.body,ARRAY['a','b']), md5(t.body) FROM bigx t;
-- name: expanded_array
SELECT t.id, ia3_predict('topic',t.body,array_append(ARRAY['a','b'], 'c'||(t.n%3))) FROM smalltk t;
-- name: scalar_simple
SELECT id, ia3_predict(task, body, choices) FROM tickets WHERE id <= 25;
-- name: scalar_expr
SELECT id, 'label: ' || upper(ia3_predict(task, body, choices)) || id FROM tickets WHERE id <= 25;
-- name: scalar_twice
SELECT id, ia3_predict(task, body, choices), length(ia3_predict(task, body, choices)), ia3_predict('other', body, choices) FROM tickets WHERE id <= 25;
-- name: scalar_nested
SELECT id, ia3_predict('n1', ia3_predict('n2', body, ARRAY['a','b']), ARRAY['x','y']) FROM smalltk;
-- name: scalar_where
SELECT id FROM tickets WHERE ia3_predict(task, body, choices) = 'bug' AND id <= 25;
-- name: scalar_where_and_tlist
SELECT id, ia3_predict('second', body, choices) FROM tickets WHERE ia3_predict(task, body, choices) = 'bug' AND id <= 25;
-- name: scalar_where_two
SELECT id FROM tickets WHERE ia3_predict(task, body, choices) = 'bug' AND ia3_predict('second', body, choices) = 'bug' AND id <= 25;
-- name: scalar_where_or
SELECT id FROM tickets WHERE (id % 2 = 0 OR ia3_predict(task, body, choices) = 'bug') AND id <= 25;
-- name: scalar_case
SELECT id, CASE WHEN id % 2 = 0 THEN ia3_predict(task, body, choices) END FROM tickets WHERE id <= 25;
-- name: scalar_case_when
SELECT id, CASE WHEN ia3_predict(task, body, choices) = 'bug' THEN 1 ELSE 0 END FROM tickets WHERE id <= 25;
-- name: scalar_coalesce
SELECT id, coalesce(ia3_predict('topic', body, ARRAY['a','b']), 'none') FROM smalltk;
-- name: scalar_orderby
SELECT id FROM tickets WHERE id <= 25 ORDER BY ia3_predict(task, body, choices), id;
-- name: scalar_orderby_limit
SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY body LIMIT 10;
-- name: scalar_limit
SELECT id, ia3_predict(task, body, choices) FROM tickets WHERE id > 5 LIMIT 2;
-- name: scalar_limit_where
SELECT id FROM tickets WHERE ia3_predict(task, body, choices)='bug' ORDER BY id LIMIT 2;
-- name: scalar_distinct
SELECT DISTINCT ia3_predict(task, body, choices) FROM tickets WHERE id <= 25;
-- name: scalar_groupby
SELECT ia3_predict(task, body, choices) l, count(*) FROM tickets WHERE id <= 25 GROUP BY 1;
-- name: scalar_aggarg
SELECT grp, count(DISTINCT ia3_predict(task, body, choices)), string_agg(ia3_predict('x', body, choices), ',' ORDER BY id) FROM tickets WHERE id <= 25 GROUP BY grp;
-- name: scalar_aggfilter
SELECT grp, count(*) FILTER (WHERE ia3_predict(task, body, choices)='bug') FROM tickets WHERE id <= 25 GROUP BY grp;
-- name: scalar_over_agg
SELECT grp, ia3_predict('sum', string_agg(body,' ' ORDER BY id), ARRAY['a','b','c']) FROM tickets GROUP BY grp;
-- name: scalar_having
SELECT grp, count(*) FROM tickets GROUP BY grp HAVING ia3_predict('sum', string_agg(body,' ' ORDER BY id), ARRAY['a','b','c']) <> 'a';
-- name: scalar_window
SELECT id, ia3_predict('w', body || row_number() OVER (ORDER BY id), choices) FROM tickets WHERE id <= 25;
-- name: scalar_window_arg
SELECT id, count(*) OVER (PARTITION BY ia3_predict(task, body, choices)) FROM tickets WHERE id <= 25;
-- name: scalar_join_tlist
SELECT t.id, ia3_predict(a.instruction, t.body, a.choices) FROM smalltk t JOIN tasks a ON a.tid = t.n % 3;
-- name: scalar_join_key
SELECT t.id, a.tid FROM smalltk t JOIN tasks a ON a.name = ia3_predict('q', t.body, ARRAY['topic','mood','z']);
-- name: scalar_join_qual
SELECT t.id, a.tid FROM smalltk t JOIN tasks a ON ia3_predict(a.instruction, t.body, a.choices) = 'happy' AND t.n > a.tid * 40;
-- name: scalar_leftjoin_tlist
SELECT t.id, ia3_predict(a.instruction, t.body, a.choices) FROM smalltk t LEFT JOIN tasks a ON a.tid = t.n % 3;
-- name: scalar_phv
SELECT a.tid, s.id, s.p FROM tasks a LEFT JOIN (SELECT id, n, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk) s ON s.n = a.tid;
-- name: scalar_phv_merge
SELECT a.id, s.id, s.p FROM tickets a LEFT JOIN (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk) s ON s.id = a.id WHERE a.id < 25 ORDER BY a.id;
-- name: view_filter
SELECT lab, count(*) FROM vt WHERE grp = 3 GROUP BY lab;
-- name: view_where_lab
SELECT id FROM vt WHERE lab = 'bug' AND grp = 3;
-- name: sql_fn_inlined
SELECT id, label(body) FROM smalltk;
-- name: projectset
SELECT id, ia3_classify('topic', body, ARRAY['a','b']) FROM smalltk;
-- name: projectset_star
SELECT id, (ia3_classify('topic', body, ARRAY['a','b'])).* FROM smalltk;
-- name: projectset_two
SELECT id, (ia3_classify('topic', body, ARRAY['a','b'])).choice, (ia3_classify('mood', body, ARRAY['x','y','z'])).choice, generate_series(1,2) FROM smalltk;
-- name: projectset_limit
SELECT id, (ia3_classify('topic', body, ARRAY['a','b'])).choice FROM smalltk LIMIT 3;
-- name: insert_select_like
SELECT count(*), min(p) FROM (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk OFFSET 0) s WHERE id > 3;
-- name: offset0_qual
SELECT * FROM (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk OFFSET 0) s WHERE p = 'a';
-- name: values_scan
SELECT v.x, ia3_predict('q', v.x, ARRAY['a','b']) FROM (VALUES ('one'),('two'),('three'),(NULL)) v(x);
-- name: func_scan_outer
SELECT i, c.choice FROM generate_series(1,12) i, LATERAL ia3_classify('q','n'||i,ARRAY['a','b']) c;
-- name: unnest_outer
SELECT i, ia3_predict('q', i, ARRAY['a','b']) FROM unnest(ARRAY['aa','bb',NULL,'aa']) i;
-- name: const_args
SELECT t.id, c.choice FROM smalltk t, ia3_classify('q','const',ARRAY['a','b']) c WHERE t.n < 5;
-- name: no_from
SELECT ia3_predict('q','const',ARRAY['a','b']);
-- name: recursive
WITH RECURSIVE r(i, s) AS (SELECT 1, 'start' UNION ALL SELECT i+1, ia3_predict('q', s||i, ARRAY['a','b','c']) FROM r WHERE i < 10) SELECT * FROM r;
-- name: full_join
SELECT a.id, b.id, ia3_predict('q', a.body, ARRAY['a','b']) FROM smalltk a FULL JOIN (SELECT * FROM smalltk WHERE n > 50) b USING (id);
-- name: intersect
SELECT ia3_predict('q', body, ARRAY['a','b','c']) FROM smalltk WHERE n < 50 INTERSECT SELECT ia3_predict('r', body, ARRAY['b','c']) FROM smalltk;
-- name: array_sublink
SELECT id, ARRAY(SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) ORDER BY rank DESC) FROM smalltk t;
-- name: subquery_in_arg
SELECT t.id, ia3_predict((SELECT instruction FROM tasks WHERE tid=1), t.body, (SELECT choices FROM tasks WHERE tid=1)) FROM smalltk t;
-- name: corr_subquery_in_arg
SELECT t.id, ia3_predict((SELECT instruction FROM tasks WHERE tid = t.n % 2 + 1), t.body, ARRAY['a','b']) FROM smalltk t;
-- name: lateral_args_subq
SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify((SELECT instruction FROM tasks WHERE tid = t.n % 2 + 1), t.body, ARRAY['a','b']) c;
-- name: for_update_queue
SELECT id, ia3_predict('q', body, ARRAY['a','b']) FROM smalltk ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED;
-- name: for_update_sub
SELECT s.id, c.choice FROM (SELECT * FROM smalltk WHERE n < 20 FOR UPDATE) s, LATERAL ia3_classify('q', s.body, ARRAY['a','b']) c LIMIT 3;
-- name: tablesample
SELECT id, ia3_predict('q', body, ARRAY['a','b']) FROM smalltk TABLESAMPLE BERNOULLI(50) REPEATABLE(1);
-- name: tid_scan
SELECT id, ia3_predict('q', body, ARRAY['a','b']) FROM smalltk WHERE ctid = '(0,1)';
-- name: bitmap
SELECT id, ia3_predict('q', body, ARRAY['a','b']) FROM smalltk WHERE (id = 3 OR id = 77) AND ia3_predict('z', body, ARRAY['a','b']) IS NOT NULL;
-- name: rank_in_right_join
SELECT t.id, x.choice FROM (SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify('q', t.body, ARRAY['a','b']) c WHERE c.rank=1) x RIGHT JOIN smalltk t USING (id);
-- name: memoize_dup
SELECT t.id, c.choice FROM (SELECT id, 'k'||(id%5) AS b FROM smalltk OFFSET 0) t, LATERAL ia3_classify('q', t.b, ARRAY['a','b']) c;
-- name: zero_rows
SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify('q', t.body, ARRAY['a','b']) c WHERE t.n < 0;
-- name: limit0
SELECT t.id, ia3_predict('q', t.body, ARRAY['a','b']) FROM smalltk t LIMIT 0;
-- name: fetch_ties
SELECT t.id, ia3_predict('q', t.body, ARRAY['a','b']) FROM smalltk t ORDER BY t.n/3 FETCH FIRST 4 ROWS WITH TIES;
-- name: grouping_sets
SELECT grp, ia3_predict('q', body, choices) p, count(*) FROM tickets WHERE id <= 25 GROUP BY GROUPING SETS ((1),(2),());
-- name: merge_inner
SELECT a.id, b.p FROM (SELECT id FROM smalltk ORDER BY id) a JOIN (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk OFFSET 0) b USING (id) WHERE b.p='a';
-- name: error_choices
SELECT t.id, ia3_predict('q', t.body, '{}') FROM smalltk t WHERE n < 5;
-- name: error_choices_guarded
SELECT t.id, c.choice FROM smalltk t, LATERAL ia3_classify('q', t.body, CASE WHEN t.n = 50 THEN '{}' ELSE ARRAY['a','b'] END) c ORDER BY t.id LIMIT 10;
-- name: error_arg_guarded
SELECT t.id, CASE WHEN n <> 50 THEN ia3_predict('q'||(1/(n-50)), t.body, ARRAY['a','b']) END FROM smalltk t;
-- name: error_limit
SELECT t.id, ia3_predict('q'||(1/(n-50)), coalesce(t.body,''), ARRAY['a','b']) FROM smalltk t ORDER BY id LIMIT 45;
-- name: guard_coalesce
SELECT id, coalesce(CASE WHEN id % 3 = 0 THEN 'given' END, ia3_predict(task, body, choices)) FROM tickets WHERE id <= 25;
-- name: guard_case_chain
SELECT id, CASE WHEN id % 3 = 0 THEN 'fizz' WHEN ia3_predict('first', body, choices) = 'bug' THEN ia3_predict('second', body, choices) ELSE ia3_predict('third', body, choices) END FROM tickets WHERE id <= 25;
-- name: guard_case_arg
SELECT id, CASE id % 3 WHEN 0 THEN 'fizz' WHEN 1 THEN ia3_predict('second', body, choices) END FROM tickets WHERE id <= 25;
-- name: guard_where_or
SELECT id FROM tickets WHERE (grp = 3 OR ia3_predict(task, body, choices) = 'bug') AND id <= 25;
-- name: guard_where_and_or
SELECT id FROM tickets WHERE (grp = 3 AND ia3_predict(task, body, choices) = 'bug' OR grp = 4 AND ia3_predict('x', body, choices) = 'bug') AND id <= 25;
-- name: guard_lateral_filter
SELECT t.id, c.choice FROM smalltk t, LATERAL (SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) WHERE t.n % 5 = 0) c;
-- name: guard_lateral_left_filter
SELECT t.id, c.choice FROM smalltk t LEFT JOIN LATERAL (SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) WHERE t.n % 5 = 0) c ON true;
-- name: hashkeys
SELECT t.id, a.tid FROM tickets t JOIN tasks a ON a.name = ia3_predict('q', t.body, ARRAY['topic','mood','z']) WHERE t.id < 25;
-- name: hashkeys_both
SELECT a.id, b.id FROM smalltk a JOIN smalltk b ON ia3_predict('p'||a.n, a.body, ARRAY['x','y']) || a.n = ia3_predict('p'||b.n, b.body, ARRAY['x','y']) || b.n;
-- name: index_runtime_key
SELECT t.id, a.tid, a.name FROM smalltk t, LATERAL (SELECT * FROM tasks a WHERE a.tid = length(ia3_predict('q', t.body, ARRAY['x','yy','zzz'])) OFFSET 0) a;
-- name: subplan_index
SELECT t.id, (SELECT name FROM tasks a WHERE a.tid = length(ia3_predict('q', t.body, ARRAY['x','yy','zzz']))) FROM smalltk t;
-- name: lateral_join_inside
SELECT t.id, x.* FROM smalltk t, LATERAL (SELECT c.choice, c.score, a.tid FROM ia3_classify('q', t.body, ARRAY['topic','mood','z']) c JOIN tasks a ON a.name = c.choice) x;
-- name: lateral_union_inside
SELECT t.id, x.* FROM smalltk t, LATERAL (SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) UNION ALL SELECT ia3_predict('r', t.body, ARRAY['c','d'])) x;
-- name: lateral_values_inside
SELECT t.id, x.* FROM smalltk t, LATERAL (VALUES (ia3_predict('q', t.body, ARRAY['a','b'])), (ia3_predict('r', t.body, ARRAY['c','d']))) x(v);
-- name: lateral_select_inside
SELECT t.id, x.* FROM smalltk t, LATERAL (SELECT ia3_predict('q', t.body, ARRAY['a','b']) AS p OFFSET 0) x;
-- name: array_agg_sub
SELECT t.id, (SELECT array_agg(choice ORDER BY score) FROM ia3_classify('q'||t.n%2, t.body, ARRAY['a','b']) WHERE score > 0.2) FROM smalltk t WHERE t.n > 3;
-- name: subplan_where_and_tlist
SELECT t.id, (SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) WHERE rank=1) FROM smalltk t WHERE (SELECT score FROM ia3_classify('q', t.body, ARRAY['a','b']) WHERE rank=1) > .6;
-- name: case_subplan
SELECT t.id, CASE WHEN t.n % 4 = 0 THEN (SELECT choice FROM ia3_classify('q', t.body, ARRAY['a','b']) WHERE rank=1) END FROM smalltk t;
-- name: agg_filter_guard
SELECT sum(length(ia3_predict('q', body, ARRAY['a','bb']))) FILTER (WHERE n % 10 = 0) FROM smalltk;
-- name: nested_agg_having
SELECT n % 4 k, count(*) FROM smalltk GROUP BY 1 HAVING ia3_predict('h', string_agg(body, ',' ORDER BY id), ARRAY['a','b']) = 'a' AND count(*) > 1 ORDER BY 1;
-- name: window_filter
SELECT * FROM (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p, row_number() OVER (ORDER BY id) rn FROM smalltk) s WHERE rn <= 5;
-- name: distinct_on
SELECT DISTINCT ON (p) p, id FROM (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p FROM smalltk) s ORDER BY p, id;
-- name: order_by_score_limit
SELECT t.id, c.score FROM smalltk t, LATERAL ia3_classify('q', t.body, ARRAY['a','b']) c WHERE c.rank=1 ORDER BY c.score DESC, t.id LIMIT 5;
-- name: subplan_in_join_condition
SELECT t.id, a.tid FROM smalltk t JOIN tasks a ON t.n > a.tid * 40 AND (SELECT c.choice FROM ia3_classify(a.instruction, t.body, a.choices) c WHERE rank = 1) <> 'angry';
SELECT t.id, a.tid FROM smalltk t LEFT JOIN tasks a ON t.n > a.tid * 40 AND (SELECT c.choice FROM ia3_classify(a.instruction, 'text ' || a.tid, a.choices) c WHERE rank = 1) <> 'angry';
-- name: merge_inner_result
SELECT a.id, b.p FROM (SELECT id FROM smalltk ORDER BY id) a JOIN (SELECT id, ia3_predict('q', body, ARRAY['a','b']) || 'x' p FROM smalltk ORDER BY id) b USING (id);
-- name: param_set_inside
SELECT t.id, x.* FROM smalltk t, LATERAL (SELECT a.tid, c.choice FROM tasks a, LATERAL ia3_classify(a.instruction, t.body || a.name, a.choices) c WHERE c.rank = 1 OFFSET 0) x WHERE t.n < 30;
SELECT a.tid, x.* FROM tasks a, LATERAL (SELECT t.id, y.p FROM smalltk t, LATERAL (SELECT ia3_predict(a.instruction, t.body, a.choices) p OFFSET 0) y WHERE t.n > a.tid LIMIT 5) x;
-- name: window_run_condition
SELECT * FROM (SELECT id, ia3_predict('q', body, ARRAY['a','b']) p, rank() OVER (ORDER BY n) r FROM smalltk) s WHERE r <= 4 AND p IS NOT NULL;
-- name: in_list_of_calls
SELECT id FROM smalltk WHERE ia3_predict('q', body, ARRAY['a','b']) IN (SELECT ia3_predict('mood', t.body, ARRAY['a','b','c']) FROM tickets t WHERE t.id < 5);
-- name: tlist_and_srf
SELECT id, ia3_predict('q', body, ARRAY['a','b']), generate_series(1, length(ia3_predict('r', body, ARRAY['a','bb']))) FROM smalltk;
-- name: values_join
SELECT v.x, c.choice FROM (VALUES ('topic', 'one'), ('mood', 'two'), ('nosuchtask', NULL)) v(task, x), LATERAL ia3_classify(v.task, v.x, ARRAY['a','b']) c;
