use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use JSON::PP;
use Sidecar qw(clean_environment decode);
use WaferMon;

# Every SDK runs this file: one call, the frame it makes, with and without receipts.
my $file = '../tests/conformance/sdk.json';
open my $fh, '<:raw', $file or plan skip_all => "$file is not in this distribution";
my $suite = decode(do { local $/; <$fh> });

clean_environment();
conforms($_) for 'send', 'ack';
done_testing;

sub conforms {
    my ($delivery) = @_;
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => $suite->{src}, $sidecar->to_session, delivery => $delivery, close_timeout => 0);
    my $calls   = 0;
    for my $case (@{ $suite->{cases} }) {
        subtest "$delivery: $case->{name}" => sub {
            my @args    = map { stand_in($_) } @{ $case->{args} }, %{ $case->{named} || {} };
            my $call    = $case->{call};
            my $refused = $client->refused;
            my $before  = int 1000 * Time::HiRes::time();
            my $ok      = $client->$call(@args);
            if ($case->{refused}) {
                ok !$ok, 'false';
                is $client->refused, $refused + 1, 'counted as refused';
                return;
            }
            ok $ok, 'true';
            $sidecar->welcome if !$calls++ && $delivery eq 'ack';
            my ($frame) = $sidecar->frames(1);
            is delete $frame->{q}, $delivery eq 'ack' ? $calls : undef, 'its number';
            $sidecar->answer(ack => $calls) if $delivery eq 'ack';
            my $ts     = delete $frame->{ts};
            like $ts, qr/\A[0-9]+\z/, 'ts is an integer';
            cmp_ok $ts, '>=', $before, 'ts is not before the call';
            cmp_ok $ts, '<=', 1000 * Time::HiRes::time(), 'ts is not after the call';
            for my $id (sort keys %{ $case->{ids} || {} }) {
                like delete $frame->{$id}, qr/\A[0-9a-f]{$case->{ids}{$id}}\z/, $id;
            }
            is_deeply $frame, $case->{frame}, 'the frame';
            is types($frame), types($case->{frame}), 'the JSON types';
        };
    }

    # Nothing came of what was refused.
    $client->flush(10);
    is $client->sent, $calls, 'sent';
    is $calls, scalar(grep { !$_->{refused} } @{ $suite->{cases} }), 'what was not refused';
    is $client->dropped, 0, 'none dropped';
    return;
}

sub stand_in {
    my ($value) = @_;
    return [ map { stand_in($_) } @$value ] if ref $value eq 'ARRAY';
    return $value if ref $value ne 'HASH';
    return $value->{float} eq 'nan' ? 9**9**9 / 9**9**9 : 9**9**9 if exists $value->{float};
    return $value->{repeat} x $value->{times} if exists $value->{repeat};
    return { map { $_ => stand_in($value->{$_}) } keys %$value };
}

# is_deeply does not tell 7 from "7"; canonical JSON does. Numbers compare by value.
sub types {
    my ($value) = @_;
    return '[' . join(',', map { types($_) } @$value) . ']' if ref $value eq 'ARRAY';
    return '{' . join(',', map { "$_:" . types($value->{$_}) } sort keys %$value) . '}' if ref $value eq 'HASH';
    my $json = JSON::PP->new->allow_nonref->encode($value);
    return $json =~ /\A[-0-9]/ ? 'number ' . (0 + $value) : $json;
}
