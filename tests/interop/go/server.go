// The server: four methods on raw bytes.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

func opened(message []byte) ([]byte, error) {
	payload, well := unseal(message)
	if !well {
		return nil, status.Errorf(codes.DataLoss, "mismatch in %d bytes of a request", len(message))
	}
	return payload, nil
}

func numbered(index uint32, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, index), rest...)
}

func unary(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var request []byte
	if err := decode(&request); err != nil {
		return nil, err
	}
	if _, err := opened(request); err != nil {
		return nil, err
	}
	return &request, nil
}

func download(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	payload, err := opened(request)
	if err != nil {
		return err
	}
	messages := binary.BigEndian.Uint32(payload)
	pause := time.Duration(binary.BigEndian.Uint32(payload[4:])) * time.Microsecond
	for index := range messages {
		reply := seal(numbered(index, payload[8:]))
		if err := stream.SendMsg(&reply); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

func upload(_ any, stream grpc.ServerStream) error {
	total, count := sha256.New(), uint32(0)
	for {
		var request []byte
		if err := stream.RecvMsg(&request); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		payload, err := opened(request)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(payload, numbered(count, nil)) {
			return status.Error(codes.DataLoss, "mismatch of a message's number")
		}
		total.Write(payload)
		count++
	}
	reply := seal(numbered(count, total.Sum(nil)))
	return stream.SendMsg(&reply)
}

func chat(_ any, stream grpc.ServerStream) error {
	for {
		var request []byte
		if err := stream.RecvMsg(&request); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := opened(request); err != nil {
			return err
		}
		if err := stream.SendMsg(&request); err != nil {
			return err
		}
	}
}

func serve(listen string, ageMs int) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		fail(err)
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodec(rawCodec{}),
		grpc.MaxRecvMsgSize(64 << 20),
	}
	if ageMs > 0 {
		age := time.Duration(ageMs) * time.Millisecond
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: age}))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Download", Handler: download, ServerStreams: true},
			{StreamName: "Upload", Handler: upload, ClientStreams: true},
			{StreamName: "Chat", Handler: chat, ServerStreams: true, ClientStreams: true},
		},
	}, struct{}{})
	go func() {
		if err := server.Serve(listener); err != nil {
			fail(err)
		}
	}()
	report("ready", nil)
	_, _ = io.Copy(io.Discard, os.Stdin)
	server.Stop()
	newTally().report()
}
