# A backbone in int8 beside the full one: what it can do, and what it cannot.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('int8', conf => "ia3.backbones = 'default=$Ia3Test::BACKBONE:float32, eight=$Ia3Test::BACKBONE:int8'\nia3.threads = 1\n");
create_shots($node);

sub value
{
    my ($sql) = @_;
    return $node->safe_psql('postgres', $sql);
}

sub rows
{
    return value(q{SELECT string_agg(backbone || ' ' || rows, ', ' ORDER BY backbone) FROM ia3_stat_engine});
}

ok(wait_for_state($node, $_, 'ready'), "$_ is ready") for 'default', 'eight';
is(value(q{SELECT string_agg(backbone || ' ' || dtype || ' ' || device, ', ' ORDER BY backbone) FROM ia3_stat_engine}),
    'default float32 cpu, eight int8 cpu', 'data types are shown');
is(value(q{SELECT count(DISTINCT backbone_digest), count(DISTINCT bytes) FROM ia3_stat_engine}), '1|2',
    'one backbone, of two sizes');
is(value(q{SELECT count(DISTINCT device_description), bool_and(device_description <> '') FROM ia3_stat_engine}), '1|t',
    'the processor is described');

# Zero-shot predictions.
my $bare = q{SELECT string_agg(choice, ' ' ORDER BY rank), sum(score) FROM ia3_classify('the app crashes', ARRAY['billing', 'technical'])};
my ($choices, $score) = split /\|/, value($bare);
my ($rounded_choices, $rounded_score) = split /\|/, value("SET ia3.backbone = 'eight'; $bare");
is(rows(), 'default 1, eight 1', 'either is asked');
isnt($rounded_score, $score, 'it computes something else');
cmp_ok(abs($rounded_score - $score), '<', 0.1 * abs($score), 'but not very');

# Training raises an error that says what to do.
my (undef, $err) = finish_query(start_query($node,
    q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 3, seed => 1, backbone => 'eight');} . "\n"));
like($err, qr/ERROR:  0A000: cannot train on a backbone in int8/, 'it is not for training');
like($err, qr/HINT:  .*:bfloat16.* UPDATE ia3\.task SET backbone/, 'the hint says how it is done');
is(value('SELECT count(*) FROM ia3.task'), '0', 'nothing is left of it');

# A task is trained on the full backbone, then used in int8; its versions can still be used on the full one.
value(q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 20, seed => 1)});
my $ask = q{SELECT choice, score FROM ia3_classify('%s', 'the app crashes') WHERE rank = 1};
my $full = value(sprintf $ask, 't');
value(q{UPDATE ia3.task SET backbone = 'eight' WHERE task = 't'});
my $before = value(q{SELECT rows FROM ia3_stat_engine WHERE backbone = 'eight'});
my $eight = value(sprintf $ask, 't');
is(value(q{SELECT rows FROM ia3_stat_engine WHERE backbone = 'eight'}), $before + 1, 'the task is asked in eight bits');
isnt($eight, $full, 'with another score');
is(value(sprintf $ask, 't@1'), $full, 'a version that is named is asked where it was trained');
(undef, $err) = finish_query(start_query($node, "SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 1);\n"));
like($err, qr/ERROR:  0A000/, 'its next training needs another backbone');
is(value(q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 20, seed => 1, backbone => 'default', activate => false)}),
    '2', 'which may be named');
is(value(sprintf $ask, 't'), $eight, 'without touching what is active');
value(q{SELECT ia3_activate('t', 2)});
is(value(sprintf $ask, 't'), $full, 'what is activated is asked where it was trained');
$node->stop;

done_testing();
