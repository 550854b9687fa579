# The unit tests of net::kernel_tls (src/net/kernel_tls/tests), those that need kernel TLS among them.
# needs: tests
. /lib/guest.sh
missing=net::kernel_tls::tests::either_kernel::what_is_missing_is_said_with_its_remedy
loaded=net::kernel_tls::tests::with_kernel_tls::the_module_is_loaded_without_a_connection

echo "guest: without the module, and without the right to load it"
as_user nobody /opt/tests --exact $missing --nocapture || exit
lsmod | grep -q '^tls ' && exit 1

echo "guest: the module comes by itself for those who have CAP_NET_ADMIN"
/opt/tests --exact $loaded --include-ignored || exit

load_tls || exit
as_user nobody /opt/tests net::kernel_tls::tests --include-ignored --test-threads=1 --nocapture || exit

awk '$2' /proc/net/tls_stat
exit 0
