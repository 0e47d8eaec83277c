use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use File::Temp 'tempdir';
use Sidecar qw(clean_environment);
use WaferMon;

clean_environment();
my $path = tempdir(CLEANUP => 1) . '/s';

sub peer_of { return WaferMon->new(src => 'c', @_)->{peer} }

is peer_of(), '127.0.0.1:17000', 'default';
is peer_of(port => 17_005), '127.0.0.1:17005', 'port';
is peer_of(host => '::1'), '::1:17000', 'IPv6';
{
    local $ENV{MONITORING_TCP_HOST} = '127.0.0.2';
    local $ENV{MONITORING_TCP_PORT} = 17_009;
    is peer_of(), '127.0.0.2:17009', 'environment';
    is peer_of(host => '127.0.0.3'), '127.0.0.3:17009', 'an argument goes before it';
    local $ENV{MONITORING_UNIX_SOCKET} = $path;
    is peer_of(), $path, 'a Unix socket before TCP';
    is peer_of(port => 17_001), '127.0.0.2:17001', 'but not before an argument';
    is peer_of(unix => "$path.2", port => 17_001), "$path.2", 'of two arguments the Unix socket';
    local @ENV{qw(MONITORING_TCP_HOST MONITORING_TCP_PORT MONITORING_UNIX_SOCKET)} = ('') x 3;
    is peer_of(), '127.0.0.1:17000', 'empty is not set';
}

my @croaks = (
    [ qr/src is missing or invalid: name this program/ => [] ],
    [ qr/src is missing/ => [ src => '' ] ], [ qr/src is/ => [ src => "a\nb" ] ], [ qr/src is/ => [ src => "a\x{85}" ] ],
    [ qr/src is/ => [ src => 'x' x 129 ] ], [ qr/src is/ => [ src => [] ] ],
    [ qr/no such option: 'prot'/ => [ src => 'c', prot => 1 ] ],
    [ qr/port .*: not 'x'/ => [ src => 'c', port => 'x' ] ], [ qr/port/ => [ src => 'c', port => 65_536 ] ],
    [ qr/no path of a Unix socket/ => [ src => 'c', unix => 'x' x 200 ] ],
    [ qr/buffer is/ => [ src => 'c', buffer => 0 ] ], [ qr/overflow is/ => [ src => 'c', overflow => 'block' ] ],
    [ qr/delivery is/ => [ src => 'c', delivery => 'maybe' ] ],
    [ qr/a secret .* needs a session/ => [ src => 'c', delivery => 'send', secret => 's3cret' ] ],
    [ qr/cannot resolve host/ => [ src => 'c', host => '300.1.1.1' ] ], [ qr/cannot resolve host/ => [ src => 'c', host => '::x' ] ],
);
for my $case (@croaks) {
    my ($error, $args) = @$case;
    ok !eval { WaferMon->new(@$args); 1 }, "croaks: $error";
    like $@, $error, 'what is wrong';
    like $@, qr/ at \Q$0\E line /, 'where';
}
for my $case ([ MONITORING_TLS_CA => qr/\AWaferMon: MONITORING_TLS_CA is set, but/ ],
    [ MONITORING_SECRET => qr/\AWaferMon: a secret \(or MONITORING_SECRET\) needs a session/, delivery => 'send' ]) {
    my ($name, $error, @args) = @$case;
    local $ENV{$name} = 's3cret';
    ok !eval { WaferMon->new(src => 'c', @args); 1 }, "croaks: $name";
    like $@, $error, 'never plain sending instead';
    unlike $@, qr/s3cret/, 'without telling it';
}

my $sidecar = Sidecar->new;
for my $src ('x' x 128, "\x{6676}" x 128, "\xe6\x99\xb6\xe5\x9c\x93", "caf\xe9", 'a "b" \\ c') {
    my $client = WaferMon->new(src => $src, $sidecar->to);
    $client->heartbeat;
    my $characters = $src;
    utf8::decode($characters) if !utf8::is_utf8($characters);
    ok +($sidecar->frames(1))[0]{src} eq $characters, 'src of ' . length($src);
    $client->close;
    $sidecar->rest;
}

# What a call without values tells of its own process.
{
    my $client = WaferMon->new(src => 'c', $sidecar->to);
    my $until  = times() + 0.05;
    1 while times() < $until;
    ok $client->log_resource, 'log_resource';
    my ($frame) = $sidecar->frames(1);
    my $data = $frame->{data};
    ok $data->{cpu} > 5 && $data->{cpu} < 500, "cpu: $data->{cpu}";
    SKIP: {
        skip 'no /proc', 2 if !-r '/proc/self/io';
        cmp_ok $data->{mem}, '>', 1e6, 'mem';
        is_deeply [ sort keys %{ $data->{disk} } ], [qw(read_bytes write_bytes)], 'disk';
    }
    $client->close;
    $sidecar->rest;
}

# Without what slim installations leave out.
{
    my $code = 'BEGIN { unshift @INC, sub { die "not here" if $_[1] =~ m{^(?:Time/HiRes|Scalar/Util)} } }'
        . ' use WaferMon; my $m = WaferMon->new(src => "slim", delivery => "send"); $m->start_span("s")->end; $m->close';
    local $ENV{MONITORING_TCP_PORT} = $sidecar->{port};
    is system($^X, '-Ilib', '-we', $code), 0, 'without Time::HiRes and Scalar::Util';
    is_deeply [ map { $_->{type} } $sidecar->rest ], [qw(span goodbye)], 'works';
    is `$^X -Ilib -MWaferMon -e 'print grep /JSON|IO.Socket|POSIX/, keys %INC'`, '', 'loads nothing that is not needed';
}

done_testing;
