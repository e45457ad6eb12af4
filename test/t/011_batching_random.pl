# 2,000 random queries, each with batching on and off, some of them through cursors, in loops or changing data.
# IA3_RANDOM_QUERIES and IA3_RANDOM_SEED change number and seed.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Batching;
use Ia3RandomQuery;

my $total = $ENV{IA3_RANDOM_QUERIES} // 2000;
my $directory = "$ENV{TESTDIR}/batching";
my $node = batching_node('random');
$node->safe_psql('postgres', slurp_file("$directory/setup.sql") . slurp_file("$directory/random.sql"));
my ($version) = $node->safe_psql('postgres', 'SHOW server_version_num') =~ /^(\d+)\d{4}$/;

my $random = Ia3RandomQuery->new($ENV{IA3_RANDOM_SEED} // 20, $version);
my @settings = planner_settings($version);
# Tables grow by what is rolled back, and plans depend on their size: both runs begin alike.
my $shrink = 'VACUUM FULL ANALYZE items, family, child, split, notes';
my ($done, $failed, $empty, $syntax) = (0, 0, 0, 0);
my @different;
while ($done < $total) {
    my $setting = $settings[($done / 100) % @settings];
    my $commands = "$setting->[1] SET ia3.max_input_tokens = 24; SET statement_timeout = '60s';";
    my @blocks = map { { name => $_, statements => [$random->block] } } $done .. $done + 99;
    $node->safe_psql('postgres', $shrink);
    my $off = run_blocks($node, "$commands SET ia3.enable_batching = off;", @blocks);
    $node->safe_psql('postgres', $shrink);
    my $on = run_blocks($node, $commands, @blocks);

    push @different, map { "$setting->[0]: $_" } compare_runs($on, $off, @blocks);
    for my $block (@blocks) {
        my $lines = $off->{ $block->{name} } // [];
        $failed++ if @$lines && $lines->[0] =~ /^ERROR/;
        # invalid queries would test nothing
        $syntax++ if @$lines && $lines->[0] =~ /^ERROR (42(?!704)|57014)/;
        $empty++ if !@$lines;
    }
    $done += @blocks;
}
is(scalar @different, 0, "$done random queries give the same rows and errors with and without batching");
diag($_) for @different[0 .. ($#different < 9 ? $#different : 9)];
is($syntax, 0, 'all of them are queries');
cmp_ok($failed, '>', $done / 100, 'some fail');
cmp_ok($failed + $empty, '<', $done / 3, 'most have rows');

$node->stop;
done_testing();
