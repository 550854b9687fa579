/* Asks an address over UDP every millisecond who answers there, and answers such questions: the two ends of the probe that tells
 * how long a floating address is out of reach.
 *
 *   probe echo PORT NAME            answers each datagram with it and NAME's first byte
 *   probe ask ADDRESS PORT SECONDS  prints a line for each question: microseconds when it went out (CLOCK_MONOTONIC), and the name
 *                                   of who has answered, or -
 *   probe connect ADDRESS PORT SECONDS INTERVAL_US
 *                                   prints a line for each TCP connection: when it was begun, microseconds that it took, or -errno
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static socklen_t resolve(const char *text, int port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof *v6;
    }
    fprintf(stderr, "not an address: %s\n", text);
    exit(2);
}

static void be_quick(void) {
    struct sched_param param = {.sched_priority = 50};
    /* Without it the figures are a little coarser. */
    sched_setscheduler(0, SCHED_FIFO, &param);
}

static int echo(int port, char name) {
    struct pollfd ends[2];
    for (int i = 0; i < 2; i++) {
        struct sockaddr_storage own;
        socklen_t len = resolve(i ? "::" : "0.0.0.0", port, &own);
        int one = 1;
        int fd = socket(i ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
        if (i)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        /* The answer must come from the address that was asked. */
        setsockopt(fd, i ? IPPROTO_IPV6 : IPPROTO_IP, i ? IPV6_RECVPKTINFO : IP_PKTINFO, &one, sizeof one);
        if (bind(fd, (void *)&own, len) < 0) {
            perror("bind");
            return 1;
        }
        ends[i] = (struct pollfd){fd, POLLIN, 0};
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        poll(ends, 2, -1);
        for (int i = 0; i < 2; i++) {
            if (!ends[i].revents)
                continue;
            char data[64], control[256];
            struct sockaddr_storage from;
            struct iovec part = {data, sizeof data - 1};
            struct msghdr message = {&from, sizeof from, &part, 1, control, sizeof control, 0};
            ssize_t n = recvmsg(ends[i].fd, &message, MSG_DONTWAIT);
            if (n < 0)
                continue;
            struct cmsghdr *head = CMSG_FIRSTHDR(&message);
            if (head && !i) {
                struct in_pktinfo *info = (void *)CMSG_DATA(head);
                info->ipi_ifindex = 0;
                info->ipi_spec_dst = info->ipi_addr;
            }
            data[n] = name;
            part.iov_len = n + 1;
            sendmsg(ends[i].fd, &message, MSG_DONTWAIT);
        }
    }
}

static int ask(const char *address, int port, double seconds) {
    struct sockaddr_storage to;
    socklen_t len = resolve(address, port, &to);
    int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    size_t most = seconds * 1000 + 1000, count = 0;
    int64_t *sent = calloc(most, sizeof *sent);
    char *who = calloc(most, 1);
    be_quick();
    int64_t start = now_us(), end = start + seconds * 1e6;
    for (int64_t next = start; next < end && count < most; next += 1000) {
        uint64_t number = count;
        sent[count++] = now_us();
        sendto(fd, &number, sizeof number, 0, (void *)&to, len);
        do {
            struct pollfd wait = {fd, POLLIN, 0};
            struct timespec left = {0, 0};
            int64_t until = next + 1000 - now_us();
            if (until > 0)
                left.tv_nsec = until * 1000;
            if (ppoll(&wait, 1, &left, NULL) <= 0)
                break;
            char data[64];
            while (recv(fd, data, sizeof data, 0) > (ssize_t)sizeof number) {
                memcpy(&number, data, sizeof number);
                if (number < count)
                    who[number] = data[sizeof number];
            }
        } while (now_us() < next + 1000);
        /* After a stall of this process itself, do not catch up in one burst. */
        if (now_us() > next + 20000)
            next = now_us();
    }
    for (size_t i = 0; i < count; i++)
        printf("%lld %c\n", (long long)sent[i], who[i] ? who[i] : '-');
    return 0;
}

struct attempt {
    int fd;
    int64_t began;
};

static int connects(const char *address, int port, double seconds, int64_t interval) {
    enum { MOST = 4096 };
    static struct attempt open_[MOST];
    static struct pollfd waits[MOST];
    struct sockaddr_storage to;
    socklen_t len = resolve(address, port, &to);
    int count = 0;
    be_quick();
    int64_t start = now_us(), end = start + seconds * 1e6, next = start;
    while (now_us() < end + 4000000 && (now_us() < end || count)) {
        if (now_us() >= next && now_us() < end && count < MOST) {
            int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
            struct linger hard = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            open_[count] = (struct attempt){fd, now_us()};
            waits[count] = (struct pollfd){fd, POLLOUT, 0};
            count++;
            connect(fd, (void *)&to, len);
            next += interval;
        }
        int64_t left = next - now_us();
        struct timespec nap = {0, left > 0 && now_us() < end ? left * 1000 : 1000000};
        ppoll(waits, count, &nap, NULL);
        for (int i = 0; i < count; i++) {
            if (!waits[i].revents)
                continue;
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(waits[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
            printf("%lld %lld\n", (long long)open_[i].began, error ? -(long long)error : (long long)(now_us() - open_[i].began));
            close(waits[i].fd);
            count--;
            waits[i] = waits[count];
            open_[i] = open_[count];
            i--;
        }
    }
    for (int i = 0; i < count; i++)
        printf("%lld %d\n", (long long)open_[i].began, -ETIMEDOUT);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "echo"))
        return echo(atoi(argv[2]), argv[3][0]);
    if (argc == 5 && !strcmp(argv[1], "ask"))
        return ask(argv[2], atoi(argv[3]), atof(argv[4]));
    if (argc == 6 && !strcmp(argv[1], "connect"))
        return connects(argv[2], atoi(argv[3]), atof(argv[4]), atoll(argv[5]));
    fprintf(stderr, "usage: see the top of the source\n");
    return 2;
}
