# The unit tests of net::kernel_tls::tests (src/net/kernel_tls/tests), those that need kernel TLS among them.
. /lib/guest.sh

echo "guest: without the module"
/opt/tests --exact net::kernel_tls::tests::either_kernel::what_is_missing_is_said_with_its_remedy || exit

load_tls || exit
/opt/tests net::kernel_tls::tests --include-ignored --test-threads=1 --nocapture || exit

awk '$2' /proc/net/tls_stat
exit 0
