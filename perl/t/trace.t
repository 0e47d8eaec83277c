use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Sidecar qw(clean_environment decode);
use WaferMon;

clean_environment();
my $sidecar = Sidecar->new;
my $client  = WaferMon->new(src => 'trace', $sidecar->to);
my $tid     = '4bf92f3577b34da6a3ce929d0e0e4736';
my $sid     = '00f067aa0ba902b7';

subtest 'a span' => sub {
    my $before = int 1000 * Time::HiRes::time();
    my $span   = $client->start_span('load', kind => 'client', ctx => { a => 1, b => 1 });
    like $span->tid, qr/\A[0-9a-f]{32}\z/, 'tid';
    like $span->sid, qr/\A[0-9a-f]{16}\z/, 'sid';
    is $span->traceparent, '00-' . $span->tid . '-' . $span->sid . '-01', 'traceparent';
    is $client->traceparent, $span->traceparent, "the client's is that of the open span";
    select undef, undef, undef, 0.02;
    $client->log_event('info', 'inside');
    ok $span->end(status => 'error', ctx => { b => 2, c => 3 }), 'end';
    ok !$span->end, 'ends once';
    $client->log_event('info', 'outside');
    my ($inside, $frame, $outside) = $sidecar->frames(3);
    is_deeply [ @$inside{qw(tid sid pid)} ], [ $span->tid, $span->sid, undef ], 'a message inside carries its ids';
    is $frame->{type}, 'span', 'the span';
    is_deeply [ @$frame{qw(tid sid pid)} ], [ $span->tid, $span->sid, undef ], 'ids';
    cmp_ok $frame->{ts}, '>=', $before, 'ts';
    cmp_ok $frame->{ts}, '<=', $inside->{ts}, 'is its start';
    my $ms = delete $frame->{data}{duration_ms};
    ok $ms >= 20 && $ms < 5000, "duration_ms: $ms";
    is_deeply $frame->{data}, { name => 'load', kind => 'client', status => 'error', ctx => { a => 1, b => 2, c => 3 } }, 'data';
    ok !grep({ exists $outside->{$_} } qw(tid sid pid)), 'a message outside carries none';
    is $client->traceparent, undef, 'no open span, no traceparent';
};

subtest 'a span that is sent when it begins, too' => sub {
    my $span = $client->start_span('load', kind => 'client', ctx => { a => 1 }, send_open => 1);
    my $next = $client->start_span('parse');
    my ($begun) = $sidecar->frames(1);
    is_deeply $begun->{data}, { name => 'load', kind => 'client', status => 'open', ctx => { a => 1 } }, 'data, without a duration';
    $next->end;
    $span->end;
    my (undef, $ended) = $sidecar->frames(2);
    is_deeply [ @$ended{qw(tid sid pid ts)} ], [ @$begun{qw(tid sid pid ts)} ], 'the same span';
    is $ended->{data}{status}, 'ok', 'ended';
};

subtest 'spans in spans' => sub {
    my $outer = $client->start_span('outer');
    my $inner = $client->start_span('inner');
    my $next  = $client->start_span('next');
    $inner->end;    # out of order
    $client->log_event('info', 'in next');
    $next->end;
    $client->log_event('info', 'in outer');
    $outer->end;
    my @frames = $sidecar->frames(5);
    is_deeply [ map { $_->{sid} } @frames ], [ map { $_->sid } $inner, $next, $next, $outer, $outer ], 'whose frames';
    is_deeply [ map { $_->{pid} } @frames[ 0, 2, 4 ] ], [ $outer->sid, $inner->sid, undef ], 'whose children';
    is_deeply [ map { $_->{tid} } @frames ], [ ($outer->tid) x 5 ], 'one trace';
    isnt $client->start_span('other')->tid, $outer->tid, 'the next is another trace';
    $sidecar->frames(1);
};

subtest 'a span that is let go of' => sub {
    my $status = sub { my ($frame) = $sidecar->frames(1); return $frame->{data}{status} };
    { my $span = $client->start_span('s') }
    is $status->(), 'ok', 'at the end of its scope';
    eval { my $span = $client->start_span('s'); die "broken\n" };
    is $@, "broken\n", 'die passes through';
    is $status->(), 'error', 'by a die';
    { my $span = $client->start_span('s') }
    is $status->(), 'ok', 'an old $@ is no error';
    eval { my $span = $client->start_span('s'); $span->end; die "broken\n" };
    is $status->(), 'ok', 'ended before';
    ok !$client->log_metric('m', 'x'), 'and nothing more came';
};

subtest 'open spans when the script ends' => sub {
    for my $case ([ '', 'ok' ], [ 'exit 2', 'error' ], [ 'die {}', 'error' ], [ 'sub f { my $t = $m->start_span("in"); die {} } f()', 'error' ]) {
        my $other = Sidecar->new;
        local $ENV{MONITORING_TCP_PORT} = $other->{port};
        open my $stderr, '>&', \*STDERR;
        open STDERR, '>', '/dev/null';
        system $^X, '-Ilib', '-MWaferMon', '-e', "my \$m = WaferMon->new(src => 'x', delivery => 'send'); my \$s = \$m->start_span('s'); $case->[0]";
        open STDERR, '>&', $stderr;
        my @frames = $other->rest;
        is $frames[-1]{type}, 'goodbye', "'$case->[0]': goodbye";
        is_deeply [ map { $_->{data}{status} } grep { $_->{type} eq 'span' } @frames ], [ ($case->[1]) x (@frames - 1) ], 'the spans before it';
    }
};

subtest 'TRACEPARENT' => sub {
    for my $case (
        [ "00-$tid-$sid-01" => 1 ], [ "00-$tid-$sid-00" => 1 ], [ "01-$tid-$sid-01-more" => 1, "00-$tid-$sid-01" ],
        [ "ff-$tid-$sid-01" => 0 ], [ "00-$tid-$sid-01-more" => 0 ], [ '00-' . '0' x 32 . "-$sid-01" => 0 ],
        [ "00-$tid-" . '0' x 16 . '-01' => 0 ], [ uc "00-$tid-$sid-01" => 0 ], [ "00-$tid-$sid" => 0 ],
        [ "00-$tid-$sid-01\n" => 0 ], [ 'x' => 0 ], [ '' => 0 ],
    ) {
        my ($traceparent, $valid, $handed_on) = @$case;
        local $ENV{TRACEPARENT} = $traceparent;
        my $heir = WaferMon->new(src => 'heir', $sidecar->to, close_timeout => 0);
        is $heir->traceparent, $valid ? $handed_on // $traceparent : undef, "'$traceparent'";
        my ($first, $inner) = ($heir->start_span('first'), $heir->start_span('inner'));
        is $first->tid eq $tid, !!$valid, 'the trace';
        is $first->{span}{pid}, $valid ? $sid : undef, 'the parent';
        is $inner->{span}{pid}, $first->sid, 'of the first span only';
        like $inner->traceparent, $traceparent =~ /00\z/ ? qr/-00\z/ : qr/-01\z/, 'the flags are handed on';
        delete $_->{client} for $first, $inner;
        bless $_, 'Nothing' for $first, $inner;
        @{ $heir->{open} } = ();
    }
};

subtest 'from script to script' => sub {
    my $span = $client->start_span('parent');
    {
        local $ENV{TRACEPARENT}         = $span->traceparent;
        local $ENV{MONITORING_TCP_PORT} = $sidecar->{port};
        system $^X, '-Ilib', '-MWaferMon', '-e', 'WaferMon->new(src => "child", delivery => "send")->start_span("child")';
    }
    my $peer = delete $sidecar->{peer};
    my ($frame) = $sidecar->rest;
    $sidecar->{peer}   = $peer;
    $sidecar->{buffer} = '';
    is_deeply [ @$frame{qw(src tid pid)} ], [ 'child', $span->tid, $span->sid ], 'the child of another process';
    $span->end;
    $sidecar->frames(1);
};

subtest 'ids' => sub {
    my (%seen, $bad);
    for (1 .. 20_000) {
        my $id = WaferMon::_random_hex(8);
        $bad++ if $seen{$id}++ || $id !~ /\A[0-9a-f]{16}\z/;
    }
    ok !$bad, 'of 20,000 none twice';
    my %pool = map { WaferMon::_scrambled(64) => 1 } 1 .. 1000;
    is scalar(keys %pool), 1000, 'and without /dev/urandom';
};

done_testing;
