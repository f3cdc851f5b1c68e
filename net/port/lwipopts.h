/* SPDX-License-Identifier: MIT */
/* lwIP: one thread, polled; IPv4, TCP for us, UDP for DHCP and time servers. */
#pragma once

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_SOCKET 0
#define LWIP_NETCONN 0
#define LWIP_RAW 0
#define LWIP_IPV6 0
#define LWIP_STATS 0
#define LWIP_DNS 0
#define LWIP_DHCP 1
#define LWIP_DHCP_DOES_ACD_CHECK 0
#define LWIP_ACD 0
#define LWIP_NETIF_HOSTNAME 1
#define LWIP_NETIF_STATUS_CALLBACK 1
#define LWIP_NETIF_TX_SINGLE_PBUF 0
#define LWIP_ICMP 1
/* Nobody has a reason to send us fragments (MSS fits the link); reassembly is memory for strangers. */
#define IP_REASSEMBLY 0
#define IP_FRAG 0

/* Memory: structures in small fixed pools, everything of variable size from net_mem_alloc() (port/net_mem.c). */
#define MEM_ALIGNMENT 8
#define MEM_CUSTOM_ALLOCATOR 1
#define MEM_CUSTOM_MALLOC net_mem_alloc
#define MEM_CUSTOM_CALLOC net_mem_calloc
#define MEM_CUSTOM_FREE net_mem_free
#define MEMP_MEM_MALLOC 0
/* 64 disks, 24 connections from outside, 4 to other hosts, and some that are closing. */
#define MEMP_NUM_TCP_PCB 112
#define MEMP_NUM_TCP_PCB_LISTEN 2
#define MEMP_NUM_TCP_SEG 6144
#define MEMP_NUM_UDP_PCB 4
#define MEMP_NUM_PBUF 64
/* Every peer of the same network needs an entry; the oldest is given up for a new one. */
#define ARP_TABLE_SIZE 120
/* While the gateway's MAC is asked for, all time servers' questions and all disks' connections wait, not only the last. */
#define ARP_QUEUEING 1
#define ARP_QUEUE_LEN 16
#define MEMP_NUM_ARP_QUEUE 64
/* Received frames are PBUF_RAM of their own length, so that small ones cannot hoard big buffers. */
#define PBUF_POOL_SIZE 2
/* The check that it complains about assumes reception into the pool. */
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1
#define PBUF_POOL_BUFSIZE 1536

#define LWIP_TCP 1
#define TCP_MSS 1460
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 3
#define TCP_WND (256 * 1024)
#define TCP_SND_BUF (256 * 1024)
#define TCP_SND_QUEUELEN ((4 * TCP_SND_BUF) / TCP_MSS)
#define TCP_SNDLOWAT (16 * 1024)
#define TCP_LISTEN_BACKLOG 1
#define TCP_DEFAULT_LISTEN_BACKLOG 8
#define TCP_QUEUE_OOSEQ 1
/* Out-of-order data is the one thing that a stranger can make us hold: 16 x 48 frames. */
#define TCP_OOSEQ_MAX_PBUFS 48
#define TCP_MSL 2000
#define LWIP_TCP_RTO_TIME 1000
#define LWIP_TCP_KEEPALIVE 1
/* RFC 6528 wants sequence numbers that cannot be guessed, RFC 6056 ports; and a host that restarts must not come with those of
 * connections that its disk servers still have. */
#define LWIP_RANDOMIZE_INITIAL_LOCAL_PORTS 1
#define LWIP_HOOK_TCP_ISN(lip, lport, rip, rport) net_rand32()

#define LWIP_CHKSUM net_chksum
#define LWIP_CHECKSUM_ON_COPY 0

#ifdef NET_TEST
#define LWIP_HAVE_LOOPIF 1
#define LWIP_NETIF_LOOPBACK 1
#else
#define LWIP_HAVE_LOOPIF 0
#endif
