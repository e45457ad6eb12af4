#!/usr/bin/env perl
#
# spills.pl: finds loops of the kernels in which the compiler keeps vectors on the stack.
#
#   scripts/spills.pl OBJECT...
#
# A compiler that has no register for a vector, or whose machine has none of that width, stores it and loads it again
# at every pass of the loop; a kernel can lose nine tenths of its speed that way without a word from the compiler. This
# disassembles objects for x86-64, takes each innermost loop (a backward jump with no other within it), and complains
# when more than an eighth of its instructions are vector instructions that go to places on the stack which the loop
# both writes and reads. Places that are only read (constants) or only written (results) cost little. The exit status is
# 1 if there is a complaint.

use strict;
use warnings;

@ARGV or die "usage: scripts/spills.pl OBJECT...\n";

# Functions that go through a row in chunks, which they keep in arrays of their own on the stack: when the compiler has
# unrolled the loops over a whole chunk these look like spills.
my %chunked = map { $_ => 1 } qw(add_row_work drop_work gated_bwd_work gated_work ia3_norm_row low_rank_rows_work
  norm_bwd_work phm_columns_work scale_row_bwd_work scale_row_work sum_rows_work);
# Weights that are unpacked, once for each batch, into more vectors at a time than there are registers.
$chunked{unpack_work} = 1;
# The portable form of the eight-bit product, which x86-64 runs only in tests.
my %not_used = map { $_ => 1 } qw(plain_product);

my $loops = 0;
my $complaints = 0;

# Returns the functions of an object: a list of [name, [[address, mnemonic, operands], ...]].
sub functions
{
    my ($object) = @_;
    my @functions;
    open my $in, '-|', 'objdump', '-d', '--no-show-raw-insn', '-M', 'att', $object or die "objdump: $!\n";
    while (<$in>)
    {
        if (/^[0-9a-f]+ <(\S+)>:$/) { push @functions, [ $1, [] ] }
        elsif (@functions && /^\s*([0-9a-f]+):\s+(?:(?:notrack|bnd|data16|cs|ds|rep|lock)\s+)*(\S+)\s*(.*?)\s*$/)
        {
            push @{ $functions[-1][1] }, [ hex $1, $2, $3 ];
        }
    }
    close $in or die "objdump fails for $object\n";
    return @functions;
}

# Returns the innermost loops among instructions as pairs of indexes, both inclusive.
sub innermost_loops
{
    my ($code) = @_;
    my (%index, @loops);
    $index{ $code->[$_][0] } = $_ for 0 .. $#$code;
    for my $i (0 .. $#$code)
    {
        my (undef, $mnemonic, $operands) = @{ $code->[$i] };
        next unless $mnemonic =~ /^j/ && $operands =~ /^([0-9a-f]+)\b/;
        my $to = $index{ hex $1 };
        push @loops, [ $to, $i ] if defined $to && $to <= $i;
    }
    return grep {
        my $outer = $_;
        !grep { $_ != $outer && $_->[0] >= $outer->[0] && $_->[1] <= $outer->[1] } @loops;
    } @loops;
}

# Returns the places on the stack that vector instructions among these write and read: {place => [writes, reads]}.
sub stack_places
{
    my ($frame, @code) = @_;
    my %places;
    for (@code)
    {
        my (undef, $mnemonic, $operands) = @$_;
        next unless $operands =~ /%[xyz]mm/ && $operands =~ /(-?(?:0x[0-9a-f]+)?\(%(?:$frame)\))/;
        my $place = $1;
        my $writes = $mnemonic =~ /^v?(mov|extract|pextr|cvtps2ph|pmov)/ && $operands =~ /\Q$place\E(\{%k\d\})?$/;
        $places{$place}[ $writes ? 0 : 1 ]++;
    }
    return \%places;
}

for my $object (@ARGV)
{
    for (functions($object))
    {
        my ($name, $code) = @$_;
        (my $plain = $name) =~ s/\..*//;
        next if $chunked{$plain} || $not_used{$plain};
        my $frame = (grep { $_->[1] eq 'mov' && $_->[2] eq '%rsp,%rbp' } @$code) ? 'rsp|rbp' : 'rsp';
        for (innermost_loops($code))
        {
            my ($from, $to) = @$_;
            $loops++;
            next if grep { $_->[1] =~ /^call/ } @$code[ $from .. $to ]; # the callee decides
            my $places = stack_places($frame, @$code[ $from .. $to ]);
            my @both = grep { $places->{$_}[0] && $places->{$_}[1] } sort keys %$places;
            my $moves = 0;
            $moves += $places->{$_}[0] + $places->{$_}[1] for @both;
            next unless $moves * 8 > $to - $from + 1;
            $complaints++;
            printf "%s: %s: the loop of %d instructions at %x keeps %d vectors on the stack (%d moves): %s\n", $object, $name,
              $to - $from + 1, $code->[$from][0], scalar @both, $moves, join ' ', @both[ 0 .. ($#both > 5 ? 5 : $#both) ];
        }
    }
}
$loops or die "there is no loop in these objects\n";
print "$loops loops, $complaints with vectors on the stack\n";
exit($complaints ? 1 : 0);
