# Running queries with batching on and off, and comparing what they say.

package Ia3Batching;

use strict;
use warnings;

use Exporter qw(import);
use IPC::Run ();

our @EXPORT = qw(read_corpus run_blocks planner_settings compare_runs);

# Name and statements of each block of a corpus file; "-- name: ..." begins one.
sub read_corpus {
    my ($path) = @_;
    my @blocks;
    open(my $file, '<', $path) or die "$path: $!";
    while (my $line = <$file>) {
        chomp $line;
        if ($line =~ /^-- name: (\S+)/) {
            push @blocks, { name => $1, statements => [] };
        } elsif ($line !~ /^--/ && $line =~ /\S/) {
            push @{ $blocks[-1]{statements} }, $line;
        }
    }
    close $file;
    return @blocks;
}

# Planner settings that lead to different plans for the same query, with different batch sizes.
sub planner_settings {
    my ($version) = @_;
    my $force = $version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
    my $cheap = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; '
        . 'SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 2;';
    return (
        ['default', 'SET ia3.batch_rows = 256;'],
        ['parallel', "$cheap SET ia3.batch_rows = 5;"],
        ['forced parallel', "$cheap SET $force = on; SET ia3.batch_rows = 3;"],
        ['no hash', 'SET enable_hashjoin = off; SET enable_hashagg = off; SET ia3.batch_rows = 7;'],
        ['merge', 'SET enable_hashjoin = off; SET enable_nestloop = off; SET enable_hashagg = off; '
                . 'SET enable_sort = off; SET ia3.batch_rows = 4;'],
        ['bare', 'SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; '
                . 'SET enable_material = off; SET ia3.batch_rows = 2;']);
}

# Runs the blocks in one session; returns for each name the lines that it printed, errors included, sorted.
sub run_blocks {
    my ($node, $settings, @blocks) = @_;
    # disabled plan types cost so much that everything would be compiled
    my $script = "\\set ON_ERROR_STOP 0\n\\pset format unaligned\n\\pset tuples_only on\nSET jit = off;\n$settings\n";
    for my $block (@blocks) {
        # statement by statement: psql knows about the last one only
        $script .= "$_\n\\if :ERROR\n\\echo ERROR :SQLSTATE :LAST_ERROR_MESSAGE\n\\endif\n" for @{ $block->{statements} };
        $script .= "\\echo \@\@ $block->{name}\n";
    }
    my ($out, $err) = ('', '');
    IPC::Run::run(
        ['psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', '-'],
        '<', \$script, '>', \$out, '2>', \$err);
    my (%result, @lines);
    for my $line (split /\n/, $out) {
        if ($line =~ /^@@ (\S+)$/) {
            $result{$1} = [sort @lines];
            @lines = ();
        } else {
            push @lines, $line;
        }
    }
    # what is left is from a session that died
    $result{''} = [@lines, split /\n/, $err] if keys %result < @blocks;
    return \%result;
}

# Names of the blocks whose results differ, each with both results.
sub compare_runs {
    my ($on, $off, @blocks) = @_;
    my @different;
    for my $block (@blocks) {
        my $name = $block->{name};
        my $with = join "\n", @{ $on->{$name} // ['(no result)', @{ $on->{''} // [] }] };
        my $without = join "\n", @{ $off->{$name} // ['(no result)', @{ $off->{''} // [] }] };
        next if $with eq $without && $on->{$name};
        push @different, "$name: @{$block->{statements}}\n-- with batching:\n$with\n-- without:\n$without\n";
    }
    return @different;
}

1;
