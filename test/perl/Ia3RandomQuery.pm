# Random queries that call ia3_classify and ia3_predict, under all their names, wherever SQL allows it. The same seed gives
# the same queries. They read the tables of test/batching/random.sql and have a result that does not depend on the plan: if
# there is a LIMIT, rows are ordered by a key. At most one call of a query can fail, and only because of its own arguments,
# so the error is the same in whatever order the calls are made.
#
# Some are read through a cursor, in both directions and with positioned updates between, or by a loop in PL/pgSQL, or
# change data. These are blocks of several statements.

package Ia3RandomQuery;

use strict;
use warnings;

# version: PostgreSQL's major version
sub new {
    my ($class, $seed, $version) = @_;
    return bless { state => $seed, risk => 0, version => $version }, $class;
}

# Returns a number from 0 to n - 1. Perl's rand is not used because its sequence is not guaranteed.
sub roll {
    my ($self, $n) = @_;
    $self->{state} = ($self->{state} * 1103515245 + 12345) & 0x7fffffff;
    return ($self->{state} >> 8) % $n;
}

sub pick {
    my ($self, @options) = @_;
    return $options[$self->roll(scalar @options)];
}

# Returns an input text. `t` is an alias with columns body and n.
sub text {
    my ($self, $t, $depth) = @_;
    my $roll = $self->roll(14);
    return "$t.body || $t.n" if $roll == 0;
    return "coalesce($t.body, 'nothing')" if $roll == 1;
    return "upper($t.body)" if $roll == 2;
    return "'same text'" if $roll == 3;
    return "CASE WHEN $t.n % 2 = 0 THEN $t.body ELSE 'odd ' || $t.n END" if $roll == 4;
    return $self->predict($t, $depth + 1) if $roll == 5 && $depth < 2;
    return "(SELECT max(body) FROM few)" if $roll == 6;
    return "(SELECT f.name FROM few f WHERE f.tid = $t.n % 3)" if $roll == 7;
    if ($roll == 8 && !$self->{risk}) {
        $self->{risk} = 1;
        return "'q' || 10 / ($t.n - 6)";
    }
    return "$t.body";
}

sub task {
    my ($self, $t) = @_;
    my $roll = $self->roll(10);
    if ($roll == 0 && !$self->{risk}) {
        $self->{risk} = 1;
        return "CASE WHEN $t.n = 6 THEN 'nosuchtask' ELSE 'topic' END";
    }
    return "'q' || $t.n % 2" if $roll == 1;
    return "(SELECT name FROM few WHERE tid = 1)" if $roll == 2;
    return $self->pick("'topic'", "'mood'", "'sum'");
}

sub choices {
    my ($self, $t) = @_;
    my $roll = $self->roll(10);
    if ($roll == 0 && !$self->{risk}) {
        $self->{risk} = 1;
        return "CASE WHEN $t.n = 6 THEN '{x,x}' ELSE ARRAY['x', 'y'] END";
    }
    return "CASE WHEN $t.n > 4 THEN ARRAY['red', 'blue'] ELSE ARRAY['one', 'two', 'three'] END" if $roll == 1;
    return "array_append(ARRAY['a', 'b'], 'c' || $t.n % 3)" if $roll == 2;
    return $self->pick("ARRAY['red', 'blue', 'sea']", "ARRAY['topic', 'mood']", "ARRAY['yes', 'no']");
}

# Returns fields for ia3_..._fields, as jsonb, json or text.
sub fields {
    my ($self, $t) = @_;
    if ($self->roll(8) == 0 && !$self->{risk}) {
        $self->{risk} = 1;
        return "CASE WHEN $t.n = 6 THEN '{\"text\": }' ELSE '{\"text\": 1}' END";
    }
    return $self->pick("jsonb_build_object('text', $t.n)", "json_build_object('text', $t.n)",
        "json_build_object('text', $t.n)::text");
}

# Returns a call of a function, under one of its names.
sub call {
    my ($self, $verb, $t, $depth) = @_;
    my $roll = $self->roll(11);
    my $task = $self->task($t);
    return "$verb(" . $self->text($t, $depth) . ', ' . $self->choices($t) . ')' if $roll == 0;
    return "$verb($task, jsonb_build_object('text', $t.n), " . $self->choices($t) . ')' if $roll == 1;
    return "$verb($task, " . $self->text($t, $depth) . ')' if $roll == 2;
    return "${verb}_zero_shot(" . $self->text($t, $depth) . ', ' . $self->choices($t) . ')' if $roll == 3;
    return "${verb}_fields($task, " . $self->fields($t) . ", " . $self->choices($t) . ')' if $roll == 4;
    return "${verb}_fields($task, " . $self->fields($t) . ')' if $roll == 5;
    return "$verb($task, " . $self->text($t, $depth) . ', ' . $self->choices($t) . ')';
}

sub predict {
    my ($self, $t, $depth) = @_;
    return $self->call('ia3_predict', $t, $depth // 0);
}

sub classify {
    my ($self, $t) = @_;
    return $self->call('ia3_classify', $t, 0);
}

# Returns a scalar expression over t that contains a call in most cases.
sub scalar_expression {
    my ($self, $t) = @_;
    my $roll = $self->roll(10);
    if ($roll == 9 && !$self->{risk}) {
        $self->{risk} = 1;
        return "10 / ($t.n - 6)";
    }
    return "CASE WHEN $t.n > 3 THEN " . $self->predict($t) . " END" if $roll == 0;
    return "coalesce(CASE WHEN $t.n = 2 THEN 'two' END, " . $self->predict($t) . ")" if $roll == 1;
    return "length(" . $self->predict($t) . ")" if $roll == 2;
    return "CASE WHEN " . $self->predict($t) . " < 'n' THEN " . $self->predict($t) . " ELSE 'big' END" if $roll == 3;
    return "(SELECT c.choice FROM " . $self->classify($t) . " c WHERE c.rank = 1)" if $roll == 4;
    return "ARRAY(SELECT c.choice FROM " . $self->classify($t) . " c ORDER BY c.score)" if $roll == 5;
    return "CASE $t.n % 3 WHEN 0 THEN 'fizz' WHEN 1 THEN " . $self->predict($t) . " END" if $roll == 6;
    return $self->predict($t);
}

sub condition {
    my ($self, $t) = @_;
    my $roll = $self->roll(9);
    if ($roll == 8 && !$self->{risk}) {
        $self->{risk} = 1;
        return "10 / ($t.n - 6) < 4";
    }
    return "$t.n > 2" if $roll == 0;
    return "($t.n = 3 OR " . $self->predict($t) . " > 'm')" if $roll == 1;
    return "EXISTS (SELECT 1 FROM " . $self->classify($t) . " c WHERE c.rank = 1 AND c.choice < 'n')" if $roll == 2;
    return "'red' NOT IN (SELECT c.choice FROM " . $self->classify($t) . " c WHERE c.rank = 1)" if $roll == 3;
    return "$t.body IS NOT NULL AND " . $self->predict($t) . " <> 'no'" if $roll == 4;
    return $self->predict($t) . " <> " . $self->predict($t) if $roll == 5;
    return $self->predict($t) . " > 'b'";
}

# Returns a FROM item with columns k (unique), body and n, and its alias.
sub source {
    my ($self, $alias) = @_;
    my $roll = $self->roll(9);
    return "(SELECT id AS k, body, n FROM items WHERE n <> 4) $alias" if $roll == 0;
    return "(SELECT id AS k, body, n FROM items OFFSET 0) $alias" if $roll == 1;
    return "(SELECT g AS k, 'series ' || g % 3 AS body, g AS n FROM generate_series(1, 7) g) $alias" if $roll == 2;
    return "(VALUES (1, 'first', 1), (2, NULL, 6), (3, 'third', 3)) $alias (k, body, n)" if $roll == 3;
    return "(SELECT id AS k, body, n FROM items WHERE n < 4 UNION ALL SELECT tid + 100, body, tid FROM few) $alias" if $roll == 4;
    return "(SELECT n % 3 AS k, string_agg(body, ' ' ORDER BY id) AS body, max(n) AS n FROM items GROUP BY 1) $alias"
        if $roll == 5;
    return "(SELECT i.id * 10 + f.tid AS k, i.body, i.n + f.tid AS n FROM items i JOIN few f ON f.tid = i.n % 3) $alias"
        if $roll == 6;
    return "(SELECT id AS k, ia3_predict('sum', body, ARRAY['sea', 'sky']) AS body, n FROM items WHERE id < 7) $alias"
        if $roll == 7;
    return "(SELECT id AS k, body, n FROM items) $alias";
}

sub lateral {
    my ($self, $t, $alias) = @_;
    my $call = $self->classify($t);
    my $roll = $self->roll(8);
    return " CROSS JOIN LATERAL $call $alias" if $roll == 0;
    return " LEFT JOIN LATERAL $call $alias ON $alias.rank = 1 AND $t.n <> 3" if $roll == 1;
    return " LEFT JOIN LATERAL $call $alias ON true" if $roll == 2;
    return " CROSS JOIN LATERAL (SELECT choice, rank, score FROM $call ORDER BY score DESC LIMIT 1) $alias" if $roll == 3;
    return " CROSS JOIN LATERAL (SELECT min(choice) AS choice, max(rank) AS rank, sum(score) AS score FROM $call) $alias"
        if $roll == 4;
    return " CROSS JOIN LATERAL (SELECT choice, rank, score FROM $call WHERE $t.n % 2 = 1) $alias" if $roll == 5;
    return " CROSS JOIN LATERAL (SELECT x.choice, x.rank, x.score FROM $call x JOIN few f ON f.tid = x.rank) $alias" if $roll == 6;
    return " CROSS JOIN LATERAL $call $alias";
}

# Returns a clause that limits the result, or none; `keys` order it completely.
sub limit {
    my ($self, $keys) = @_;
    return '' if $self->roll(3) != 0;
    my $offset = $self->roll(4) == 0 ? ' OFFSET 2' : '';
    return " ORDER BY $keys LIMIT " . (1 + $self->roll(5)) . $offset;
}

sub query_select {
    my ($self) = @_;
    my $columns = join ', ', map { $self->scalar_expression('t') } 0 .. $self->roll(2);
    my $where = $self->roll(2) ? ' WHERE ' . $self->condition('t') : '';
    return "SELECT t.k, $columns FROM " . $self->source('t') . $where . $self->limit('t.k');
}

sub query_lateral {
    my ($self) = @_;
    my $where = $self->roll(3) == 0 ? ' WHERE ' . $self->condition('t') : '';
    my $extra = $self->roll(3) == 0 ? ', ' . $self->scalar_expression('t') : '';
    return "SELECT t.k, c.choice, c.score$extra FROM " . $self->source('t') . $self->lateral('t', 'c') . $where
        . $self->limit('t.k, c.rank, c.score');
}

sub query_two_laterals {
    my ($self) = @_;
    my $from = $self->source('t') . $self->lateral('t', 'c') . $self->lateral('t', 'd');
    return "SELECT t.k, c.choice, d.choice FROM $from" . $self->limit('t.k, c.rank, c.choice, d.rank, d.choice');
}

sub query_join {
    my ($self) = @_;
    my $kind = $self->pick('JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN');
    my $on = $self->roll(3) == 0 && $kind ne 'FULL JOIN' ? "s.n = t.n AND " . $self->predict('s') . " > 'c'" : 's.n = t.n';
    my $where = $self->roll(3) == 0 ? ' WHERE ' . $self->condition('t') : '';
    return "SELECT s.k, t.k, " . $self->predict($self->pick('s', 't')) . " FROM " . $self->source('s') . " $kind "
        . $self->source('t') . " ON $on$where" . $self->limit('s.k, t.k');
}

sub query_join_key {
    my ($self) = @_;
    return "SELECT t.k, f.tid FROM " . $self->source('t') . " JOIN few f ON f.name = " . $self->predict('t')
        . $self->limit('t.k, f.tid');
}

sub query_aggregate {
    my ($self) = @_;
    my $key = $self->pick('t.n % 2', 't.k', $self->predict('t'));
    my $aggregate = $self->pick('count(DISTINCT ' . $self->predict('t') . ')',
        'string_agg(' . $self->predict('t') . ", ',' ORDER BY t.k)",
        'count(*) FILTER (WHERE t.n > 2 AND ' . $self->predict('t') . " > 'd')", 'max(' . $self->predict('t') . ')');
    my $having = $self->roll(3) == 0
        ? " HAVING ia3_predict('topic', string_agg(t.body, ' ' ORDER BY t.k), ARRAY['a', 'b']) <> 'c'" : '';
    return "SELECT $key, $aggregate FROM " . $self->source('t') . " GROUP BY 1$having";
}

sub query_set {
    my ($self) = @_;
    my $operator = $self->pick('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT');
    return "SELECT " . $self->predict('s') . " FROM " . $self->source('s') . " $operator SELECT " . $self->predict('t')
        . " FROM " . $self->source('t');
}

sub query_window {
    my ($self) = @_;
    my $function = $self->pick('row_number()', 'lag(' . $self->predict('t') . ')', 'count(' . $self->predict('t') . ')');
    return "SELECT t.k, $function OVER (ORDER BY t.k), " . $self->predict('t') . " FROM " . $self->source('t')
        . $self->limit('t.k');
}

sub query_srf {
    my ($self) = @_;
    return $self->pick("SELECT t.k, (" . $self->classify('t') . ").*", "SELECT t.k, " . $self->classify('t')) . " FROM "
        . $self->source('t');
}

sub query_cte {
    my ($self) = @_;
    my $materialized = $self->pick('MATERIALIZED', 'NOT MATERIALIZED');
    return "WITH w AS $materialized (SELECT t.k, t.n, " . $self->predict('t') . " AS body FROM " . $self->source('t')
        . ") SELECT a.k, a.body, b.body, " . $self->predict('a') . " FROM w a JOIN w b USING (k)" . $self->limit('a.k, b.k');
}

sub query_nested {
    my ($self) = @_;
    return "SELECT f.tid, x.k, x.p FROM few f LEFT JOIN LATERAL (SELECT t.k, ia3_predict(f.name, t.body, f.choices) AS p FROM "
        . $self->source('t') . " WHERE t.n > f.tid ORDER BY t.k LIMIT " . (1 + $self->roll(4)) . ") x ON true";
}

# Returns a query over a single table, whose cursor can be used for positioned updates as long as the query has neither
# joins nor a sort, and the table. The query has a column k, which is unique.
sub positioned_select {
    my ($self) = @_;
    my $table = $self->pick('items', 'items', 'family', 'split');
    my $from = $self->roll(5) == 0 ? "(SELECT * FROM $table OFFSET 0) t" : "$table t";
    my $columns = join ', ', map { $self->scalar_expression('t') } 0 .. $self->roll(2);
    my $where = $self->roll(3) == 0 ? ' WHERE ' . $self->condition('t') : '';
    my $end = $self->roll(3) != 0 ? ''
        : $self->pick(' FOR UPDATE', ' FOR SHARE', ' FOR UPDATE SKIP LOCKED', ' LIMIT 4', ' LIMIT 3 OFFSET 1', ' ORDER BY t.id');
    return ("SELECT t.id AS k, $columns FROM $from$where$end", $table);
}

sub movement {
    my ($self) = @_;
    return $self->pick('FETCH', 'FETCH', 'MOVE') . ' '
        . $self->pick('NEXT', 'NEXT', '2', '3', '5', 'PRIOR', 'BACKWARD 2', 'BACKWARD 4', 'RELATIVE -2', 'RELATIVE 0', 'FIRST', 'LAST',
        'ABSOLUTE 3', 'ABSOLUTE -2', 'ALL', 'BACKWARD ALL') . ' FROM c';
}

# Reads a query through a cursor that moves back and forth, if its plan can do that.
sub cursor_block {
    my ($self) = @_;
    my ($query, $table) = $self->roll(3) == 0 ? ($self->plain_query, 'items') : $self->positioned_select;
    my $hold = $self->roll(4) == 0;
    my @statements = ('BEGIN', 'DECLARE c' . $self->pick('', '', '', ' SCROLL', ' NO SCROLL') . ' CURSOR'
        . ($hold ? ' WITH HOLD' : '') . " FOR $query");
    for my $step (1 .. 3 + $self->roll(7)) {
        my $roll = $self->roll(8);
        if ($roll == 0) {
            push @statements, 'SAVEPOINT s', "DELETE FROM $table WHERE CURRENT OF c RETURNING id", 'ROLLBACK TO s';
        } elsif ($roll == 1) {
            push @statements, 'SAVEPOINT s', $self->movement, 'SELECT 1 / 0', 'ROLLBACK TO s';
        } elsif ($roll < 4 && !$hold) { # these changes are rolled back
            push @statements, "UPDATE $table SET mark = coalesce(mark, '') || $step WHERE CURRENT OF c RETURNING id, mark";
        } else {
            push @statements, $self->movement;
        }
    }
    return (@statements, 'COMMIT', $self->movement, $self->movement, 'CLOSE c') if $hold;
    return (@statements, "SELECT id, mark FROM $table", 'ROLLBACK');
}

# Reads a query in a loop that changes its table; the functions are in batching/random.sql.
sub loop_block {
    my ($self) = @_;
    my ($query, $table) = $self->positioned_select;
    my $function = $self->pick('loop_by_key', 'loop_by_position', 'loop_with_exceptions');
    return ('BEGIN', "SELECT * FROM $function(\$q\$$query\$q\$, '$table')", "SELECT id, mark FROM $table", 'ROLLBACK');
}

sub modify_block {
    my ($self) = @_;
    my $table = $self->pick('items', 'family', 'split');
    my $returning = $self->roll(2) ? ' RETURNING t.id, ' . $self->scalar_expression('t') : '';
    my $set = 'mark = left(' . $self->predict('t') . ', 9)' . ($self->roll(3) == 0 ? ', n = t.n + 1' : '');
    my $where = $self->roll(2) ? ' WHERE ' . $self->condition('t') : '';
    my $source = $self->source('s');
    my @changes = (
        "UPDATE $table t SET $set$where$returning",
        "UPDATE $table t SET mark = s.k || " . $self->predict('s') . " FROM $source WHERE s.n = t.id$returning",
        "DELETE FROM $table t$where$returning",
        "INSERT INTO $table AS t (id, body, n) SELECT s.k + 1000, left(" . $self->predict('s') . ", 9), s.n FROM $source$returning",
        "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT s.k, " . $self->scalar_expression('s') . " FROM $source",
        "WITH w AS (UPDATE $table t SET $set RETURNING t.id, t.n, t.mark AS body) SELECT w.id, " . $self->predict('w') . ' FROM w');
    push @changes, "MERGE INTO $table t USING (SELECT s.k, s.n, " . $self->predict('s') . " AS p FROM $source) m ON m.k = t.id "
        . "WHEN MATCHED AND m.p > 'm' THEN DELETE WHEN MATCHED THEN UPDATE SET mark = m.p "
        . "WHEN NOT MATCHED THEN INSERT (id, body, n) VALUES (m.k, m.p, m.n)" if $self->{version} >= 15;
    # row triggers see what has been changed so far, and one with a transition table what has been changed in the end
    my @triggers = $self->roll(3) != 0 ? () : $self->pick(
        "CREATE TRIGGER note BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION note_marks()",
        "CREATE TRIGGER note AFTER UPDATE ON $table REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_all()");
    return ('BEGIN', @triggers, $self->pick(@changes), "SELECT id, body, n, mark FROM $table", 'SELECT * FROM notes', 'ROLLBACK');
}

sub plain_query {
    my ($self) = @_;
    my @kinds = (\&query_select) x 5;
    push @kinds, (\&query_lateral) x 5, \&query_two_laterals, \&query_join, \&query_join, \&query_join_key,
        \&query_aggregate, \&query_aggregate, \&query_set, \&query_window, \&query_srf, \&query_cte, \&query_nested;
    return $self->pick(@kinds)->($self);
}

# Returns the statements of one test.
sub block {
    my ($self) = @_;
    $self->{risk} = $self->roll(3) != 0; # most queries succeed
    my $roll = $self->roll(10);
    my @statements = $roll == 0 || $roll == 1 ? $self->cursor_block
        : $roll == 2 ? $self->loop_block
        : $roll == 3 ? $self->modify_block
        : $self->plain_query;
    return map { "$_;" } @statements;
}

1;
