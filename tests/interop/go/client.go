// The client: unary calls at a rate, and long streams of each kind.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	unaryMax       = 20 * time.Second
	streamMax      = 60 * time.Second
	failurePause   = 20 * time.Millisecond
	poolBytes      = 4 << 20
	streamMessages = 40
	streamPause    = 50 * time.Millisecond
	streamBytesMax = 32 << 10
)

var (
	downloads = grpc.StreamDesc{ServerStreams: true}
	uploads   = grpc.StreamDesc{ClientStreams: true}
	chats     = grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
)

type plan struct {
	target                                string
	unary, streams, rate, bytesMax, renew int
	seed                                  int64
}

type client struct {
	plan  *plan
	tally *tally
	pool  []byte
	stop  chan struct{}
}

func newClient(plan *plan) *client {
	pool := make([]byte, poolBytes)
	rand.New(rand.NewSource(plan.seed)).Read(pool)
	return &client{plan: plan, tally: newTally(), pool: pool, stop: make(chan struct{})}
}

// Some bytes: now and then none or all, else small ones more often than large ones.
func (client *client) chunk(rng *rand.Rand, bytesMax int) []byte {
	kind, at := rng.Float64(), rng.Intn(poolBytes-bytesMax)
	size := int(math.Exp(rng.Float64()*math.Log(float64(bytesMax+1)))) - 1
	if kind < 0.1 {
		size = bytesMax
	} else if kind > 0.9 {
		size = 0
	}
	return client.pool[at : at+size]
}

func (client *client) dial() *grpc.ClientConn {
	channel, err := grpc.NewClient("passthrough:///"+client.plan.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		fail(err)
	}
	channel.Connect()
	return channel
}

func (client *client) attempt(kind string, limit time.Duration, act func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := act(ctx); err != nil {
		client.tally.failed(kind, err)
		time.Sleep(failurePause)
	} else {
		client.tally.replied(kind)
	}
}

func (client *client) unaryWorker(number int, channel *grpc.ClientConn) {
	rng := rand.New(rand.NewSource(client.plan.seed*1000 + int64(number)))
	period := time.Second * time.Duration(client.plan.unary) / time.Duration(client.plan.rate)
	// Workers that begin together would end in step with moves.
	time.Sleep(time.Duration(rng.Int63n(int64(period))))
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	own := channel == nil
	for calls := 0; ; calls++ {
		if own && calls%client.plan.renew == 0 {
			if channel != nil {
				channel.Close()
			}
			channel = client.dial()
		}
		client.attempt("unary", unaryMax, func(ctx context.Context) error {
			request, reply := seal(client.chunk(rng, client.plan.bytesMax)), []byte(nil)
			if err := channel.Invoke(ctx, "/"+service+"/Unary", &request, &reply); err != nil {
				return err
			}
			if !bytes.Equal(request, reply) {
				return fmt.Errorf("mismatch in the echo of %d bytes", len(request))
			}
			return nil
		})
		select {
		case <-client.stop:
			return
		case <-ticker.C:
		}
	}
}

func (client *client) streamWorker(kind string, number int, channel *grpc.ClientConn) {
	rng := rand.New(rand.NewSource(client.plan.seed*2000 + int64(number)))
	for {
		select {
		case <-client.stop:
			return
		default:
		}
		client.attempt(kind, streamMax, func(ctx context.Context) error {
			switch kind {
			case "download":
				return client.download(ctx, rng, channel)
			case "upload":
				return client.upload(ctx, rng, channel)
			default:
				return client.chat(ctx, rng, channel)
			}
		})
	}
}

func (client *client) download(ctx context.Context, rng *rand.Rand, channel *grpc.ClientConn) error {
	stream, err := channel.NewStream(ctx, &downloads, "/"+service+"/Download")
	if err != nil {
		return err
	}
	chunk := client.chunk(rng, streamBytesMax)
	pauseUs := uint32(streamPause / time.Microsecond)
	request := seal(numbered(streamMessages, numbered(pauseUs, chunk)))
	if err := stream.SendMsg(&request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for count := uint32(0); ; count++ {
		var reply []byte
		err := stream.RecvMsg(&reply)
		if errors.Is(err, io.EOF) && count == streamMessages {
			return nil
		} else if err != nil {
			return err
		}
		payload, well := unseal(reply)
		if !well || !bytes.Equal(payload, numbered(count, chunk)) {
			return fmt.Errorf("mismatch in message %d", count)
		}
	}
}

func (client *client) upload(ctx context.Context, rng *rand.Rand, channel *grpc.ClientConn) error {
	stream, err := channel.NewStream(ctx, &uploads, "/"+service+"/Upload")
	if err != nil {
		return err
	}
	total := sha256.New()
	for index := range uint32(streamMessages) {
		payload := numbered(index, client.chunk(rng, streamBytesMax))
		total.Write(payload)
		message := seal(payload)
		if err := stream.SendMsg(&message); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		time.Sleep(streamPause)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var reply []byte
	if err := stream.RecvMsg(&reply); err != nil {
		return err
	}
	payload, well := unseal(reply)
	if !well || !bytes.Equal(payload, numbered(streamMessages, total.Sum(nil))) {
		return errors.New("mismatch in the digest of a stream")
	}
	return nil
}

func (client *client) chat(ctx context.Context, rng *rand.Rand, channel *grpc.ClientConn) error {
	stream, err := channel.NewStream(ctx, &chats, "/"+service+"/Chat")
	if err != nil {
		return err
	}
	sent := make(chan []byte, streamMessages)
	go func() {
		for index := range uint32(streamMessages) {
			message := seal(numbered(index, client.chunk(rng, streamBytesMax)))
			sent <- message
			// An error is told by the receiver's side.
			if stream.SendMsg(&message) != nil {
				return
			}
			time.Sleep(streamPause)
		}
		_ = stream.CloseSend()
	}()
	for count := 0; ; count++ {
		var reply []byte
		err := stream.RecvMsg(&reply)
		if errors.Is(err, io.EOF) && count == streamMessages {
			return nil
		} else if err != nil {
			return err
		}
		if !bytes.Equal(reply, <-sent) {
			return fmt.Errorf("mismatch in message %d", count)
		}
	}
}

func (client *client) run(ended func()) {
	var shared *grpc.ClientConn
	if client.plan.renew == 0 {
		shared = client.dial()
	}
	report("connected", map[string]any{"backends": []string{}})
	var workers sync.WaitGroup
	for number := range client.plan.unary {
		workers.Go(func() { client.unaryWorker(number, shared) })
	}
	for _, kind := range []string{"download", "upload", "chat"} {
		for number := range client.plan.streams {
			workers.Go(func() { client.streamWorker(kind, number, shared) })
		}
	}
	ended()
	close(client.stop)
	workers.Wait()
	client.tally.report()
}
