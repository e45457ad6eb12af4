# Runs queries with batching on and off, and compares their results.

package Ia3Batching;

use strict;
use warnings;

use Exporter qw(import);
use File::Copy ();
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use Ia3Test;

our @EXPORT = qw(read_corpus run_blocks planner_settings compare_runs batching_node);

# Writes a T5 of one layer with random weights and the given tokenizer. It is fast, and although it knows nothing, its
# answers depend on every word of the input, which reveals rows that have been mixed up.
sub write_tiny_backbone {
    my ($directory, $tokenizer) = @_;
    my ($vocabulary, $d, $heads, $kv, $ff, $buckets) = (8192, 16, 2, 8, 16, 32);
    my $inner = $heads * $kv;
    my @attention = map { [$_, $_ eq 'o' ? ($d, $inner) : ($inner, $d)] } qw(q k v o);
    my @tensors = (['shared.weight', 1, $vocabulary, $d]);
    for my $stack (qw(encoder decoder)) {
        my $block = "$stack.block.0.layer";
        my $feed = $stack eq 'encoder' ? 1 : 2;
        push @tensors, map { ["$block.0.SelfAttention.$_->[0].weight", 0.5, @$_[1, 2]] } @attention;
        push @tensors, ["$block.0.SelfAttention.relative_attention_bias.weight", 0.5, $buckets, $heads];
        push @tensors, map { ["$block.1.EncDecAttention.$_->[0].weight", 0.5, @$_[1, 2]] } @attention
            if $stack eq 'decoder';
        push @tensors, ["$block.$feed.DenseReluDense.wi.weight", 0.5, $ff, $d],
            ["$block.$feed.DenseReluDense.wo.weight", 0.5, $d, $ff];
        push @tensors, map { ["$block.$_.layer_norm.weight", 0, $d] } 0 .. $feed;
        push @tensors, ["$stack.final_layer_norm.weight", 0, $d];
    }

    # scale 0 means ones; otherwise numbers are uniform and about that large
    my ($header, $data, $state) = ('', '', 1);
    for my $tensor (@tensors) {
        my ($name, $scale, @shape) = @$tensor;
        my ($start, $n) = (length $data, 1);
        $n *= $_ for @shape;
        $data .= pack 'f<*', map {
            $state = ($state * 1103515245 + 12345) & 0x7fffffff;
            $scale == 0 ? 1 : $scale * (($state >> 8) / 0x400000 - 1) * 1.7
        } 1 .. $n;
        $header .= ($header eq '' ? '{' : ',')
            . sprintf('"%s":{"dtype":"F32","shape":[%s],"data_offsets":[%d,%d]}', $name, join(',', @shape), $start, length $data);
    }
    $header .= '}';
    $header .= ' ' x (-length($header) % 8);

    mkdir $directory or die "$directory: $!";
    write_file("$directory/model.safetensors", pack('Q<', length $header) . $header . $data);
    write_file("$directory/config.json",
        qq({"model_type": "t5", "dropout_rate": 0.0, "layer_norm_epsilon": 1e-6, "is_encoder_decoder": true,
            "relative_attention_num_buckets": $buckets, "relative_attention_max_distance": 128,
            "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "vocab_size": $vocabulary, "d_model": $d,
            "d_kv": $kv, "num_heads": $heads, "d_ff": $ff, "num_layers": 1, "feed_forward_proj": "relu"}\n));
    File::Copy::copy($tokenizer, "$directory/spiece.model") or die "$tokenizer: $!";
    return;
}

# Starts a cluster with such a backbone.
sub batching_node {
    my ($name) = @_;
    my $directory = PostgreSQL::Test::Utils::tempdir() . '/tiny';

    write_tiny_backbone($directory, "$Ia3Test::BACKBONE/spiece.model");
    return ia3_node($name, conf => "ia3.backbones = 'default=$directory:float32'\nia3.threads = 1\njit = off\nautovacuum = off\n");
}

sub write_file {
    my ($path, $content) = @_;
    open(my $file, '>:raw', $path) or die "$path: $!";
    print $file $content;
    close $file or die "$path: $!";
    return;
}

# Returns name and statements of each block of a corpus file; "-- name: ..." begins a block.
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

# Returns planner settings that lead to different plans for the same query, with different batch sizes.
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

# Runs the blocks in one session; returns the lines that each of them has printed, errors included, sorted.
sub run_blocks {
    my ($node, $settings, @blocks) = @_;
    # disabled plan types cost so much that every query would be compiled
    my $script = "\\set ON_ERROR_STOP 0\n\\pset format unaligned\n\\pset tuples_only on\nSET jit = off;\n$settings\n";
    for my $block (@blocks) {
        # after each statement, because psql only knows about the last one
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
    # a session that died leaves the output of an unfinished block
    $result{''} = [@lines, split /\n/, $err] if keys %result < @blocks;
    return \%result;
}

# Returns the names of the blocks whose results differ, each with both results.
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
