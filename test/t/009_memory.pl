# A backend's memory does not grow with the number of calls in one query.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('memory');
plan skip_all => 'pg_backend_memory_contexts came with PostgreSQL 14' if $node->pg_version < 14;
create_shots($node);
$node->safe_psql('postgres', q{CREATE FUNCTION used() RETURNS numeric LANGUAGE plpgsql VOLATILE AS
    'BEGIN RETURN (SELECT sum(used_bytes) FROM pg_backend_memory_contexts); END'});
$node->safe_psql('postgres', q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 1)});

# Returns by how many bytes the backend's memory contexts grow between the 500th and the 4000th row of a query that calls the
# function once for every row. If calls kept memory until the end of the
# query, that would be hundreds of bytes each.
sub growth
{
    my ($from, $settings) = @_;
    return $node->safe_psql('postgres', qq{
        $settings
        SELECT max(used) - min(used) FROM (
            SELECT CASE WHEN g % 500 = 0 THEN used() END AS used FROM generate_series(1, 4000) g $from) s});
}

my %calls = (
    'classify, read ahead' => [ q{, LATERAL ia3_classify('t', 'text ' || g % 7) c WHERE c.rank = 1}, '' ],
    'classify, call by call' =>
      [ q{, LATERAL ia3_classify('t', 'text ' || g % 7) c WHERE c.rank = 1}, 'SET ia3.enable_batching = off;' ],
    'zero-shot' => [ q{, LATERAL ia3_classify('text ' || g % 7, ARRAY['a', 'b']) c WHERE c.rank = 1}, '' ],
    'predict in the select list' => [ q{, LATERAL (SELECT ia3_predict('t', 'text ' || g % 7)) c}, '' ],
    'tokenize' => [ q{, LATERAL ia3_tokenize('text ' || g % 7) c WHERE c.position = 1}, '' ],
);

foreach my $name (sort keys %calls)
{
    cmp_ok(growth(@{ $calls{$name} }), '<', 300_000, $name);
}
$node->stop;

done_testing();
