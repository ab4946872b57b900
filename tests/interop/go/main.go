// Client and server of the interop tests on grpc-go.
//
// The service takes and gives raw bytes, so that nothing needs protoc. A message that is not empty begins
// with the SHA-256 of what follows. tests/src/interop.rs tells the protocol.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const service = "balancer.interop.Bytes"

// A line on standard output, as tests/src/grpc/pod.rs reads it.
func report(event string, fields map[string]any) {
	line := map[string]any{"event": event}
	for name, value := range fields {
		line[name] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(text))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func seal(payload []byte) []byte {
	if len(payload) == 0 {
		return nil
	}
	digest := sha256.Sum256(payload)
	return append(digest[:], payload...)
}

// The payload, and whether the bytes are those that were sent.
func unseal(message []byte) ([]byte, bool) {
	if len(message) == 0 {
		return nil, true
	}
	if len(message) <= sha256.Size {
		return nil, false
	}
	payload := message[sha256.Size:]
	return payload, sha256.Sum256(payload) == [sha256.Size]byte(message[:sha256.Size])
}

// Bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(value any) ([]byte, error) {
	return *value.(*[]byte), nil
}

func (rawCodec) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "raw" }

// What came of it.
type tally struct {
	lock     sync.Mutex
	replies  map[string]uint64
	failures map[string]uint64
}

func newTally() *tally {
	return &tally{replies: map[string]uint64{}, failures: map[string]uint64{}}
}

func (tally *tally) replied(kind string) {
	tally.lock.Lock()
	defer tally.lock.Unlock()
	tally.replies[kind]++
}

func (tally *tally) failed(kind string, why error) {
	tally.lock.Lock()
	defer tally.lock.Unlock()
	tally.failures[fmt.Sprintf("%s: %v", kind, why)]++
}

func (tally *tally) report() {
	tally.lock.Lock()
	defer tally.lock.Unlock()
	report("done", map[string]any{"tally": map[string]any{
		"replies": tally.replies, "failures": tally.failures, "latencies_ns": []int{}, "cpu_us": 0,
	}})
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("no command; hint: server or client"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	switch os.Args[1] {
	case "server":
		listen := flags.String("listen", "", "the address")
		ageMs := flags.Int("age-ms", 0, "after which connections get a GOAWAY; 0 is never")
		_ = flags.Parse(os.Args[2:])
		serve(*listen, *ageMs)
	case "client":
		var plan plan
		flags.StringVar(&plan.target, "target", "", "what to dial")
		pod := flags.String("pod", "", "the cgroup to enter")
		flags.IntVar(&plan.unary, "unary", 8, "calls at a time")
		flags.IntVar(&plan.streams, "streams", 1, "streams of each kind at a time")
		flags.IntVar(&plan.rate, "rate", 100, "calls a second")
		flags.IntVar(&plan.bytesMax, "bytes-max", 200<<10, "greatest payload")
		flags.Int64Var(&plan.seed, "seed", 1, "of sizes and bytes")
		flags.IntVar(&plan.renew, "renew", 0, "calls after which a worker dials anew; 0 shares one channel")
		_ = flags.Parse(os.Args[2:])
		call(&plan, *pod)
	default:
		fail(fmt.Errorf("no command `%s`; hint: server or client", os.Args[1]))
	}
}

func call(plan *plan, pod string) {
	if pod != "" {
		members := filepath.Join(pod, "cgroup.procs")
		if err := os.WriteFile(members, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			fail(err)
		}
	}
	report("ready", nil)
	input := bufio.NewReader(os.Stdin)
	line, _ := input.ReadString('\n')
	if strings.TrimSpace(line) != "dial" {
		newTally().report()
		return
	}
	newClient(plan).run(func() { _, _ = io.Copy(io.Discard, input) })
}
