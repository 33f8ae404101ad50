// Draws one picture with a Fresco server, and shows how far it is.
//
// A call that is lost, or refused for now, is made again with the same seed and request_id: that gives the same picture.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "fresco/client/go/frescov1"
)

const attempts = 6 // calls at most, for one picture

func main() {
	server := flag.String("server", "127.0.0.1:8500", "`HOST:PORT`")
	model := flag.String("model", "", "the model's name; empty: the first one")
	prompt := flag.String("prompt", "a red apple on a light blue background", "what to draw")
	seed := flag.Int64("seed", -1, "draws the same picture again; -1: a new one")
	steps := flag.Int("steps", 0, "denoising steps; 0: the model's default")
	output := flag.String("output", "picture.png", "the `FILE` to write")
	timeout := flag.Duration("timeout", 10*time.Minute, "for all of it")
	secure := flag.Bool("tls", false, "the server has a certificate of an authority that this machine knows")
	ca := flag.String("ca", "", "the server has a certificate of the authority in this PEM `FILE`")
	flag.Parse()

	// Ctrl-C cancels at the server too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if token := os.Getenv("FRESCO_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	connection, err := connect(*server, *secure, *ca)
	if err != nil {
		fail(err)
	}
	defer connection.Close()

	request := &pb.GenerateRequest{Model: *model, Prompt: *prompt, Steps: int32(*steps), RequestId: randomID()}
	drawn := uint64(*seed)
	if *seed < 0 {
		drawn = uint64(randomSeed())
	}
	request.Seed = &drawn
	picture, err := draw(ctx, pb.NewImageGenerationClient(connection), request)
	if err == nil {
		err = os.WriteFile(*output, picture, 0o666)
	}
	if err != nil {
		fail(err)
	}
	fmt.Printf("%s (seed %d)\n", *output, drawn)
}

// connect does not wait for the server. In plain text, unless it is told how to know it. (grpc.Dial and WithInsecure: since Debian 12 has gRPC
// 1.33; from 1.63 on they are better called NewClient and WithTransportCredentials(insecure.NewCredentials()).)
func connect(server string, secure bool, ca string) (*grpc.ClientConn, error) {
	if !secure && ca == "" {
		return grpc.Dial(server, grpc.WithInsecure())
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", ca)
		}
	}
	return grpc.Dial(server, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// draw makes as many calls as it takes.
func draw(ctx context.Context, client pb.ImageGenerationClient, request *pb.GenerateRequest) ([]byte, error) {
	delay := 250 * time.Millisecond
	for attempt := 1; ; attempt++ {
		picture, err := drawOnce(ctx, client, request)
		if err == nil {
			return picture, nil
		}
		wait, again := retryAfter(err, delay, attempt > 1)
		if !again || attempt == attempts {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%v; again in %v\n", err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		delay *= 2
	}
}

func drawOnce(ctx context.Context, client pb.ImageGenerationClient, request *pb.GenerateRequest) ([]byte, error) {
	// Whatever ends this call early, ends it at the server.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Generate(ctx, request)
	if err != nil {
		return nil, err
	}
	var picture []byte
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the answer ended before the picture was complete")
		}
		if err != nil {
			return nil, err
		}
		switch what := event.GetEvent().(type) {
		case *pb.GenerateEvent_Queued:
			fmt.Fprintf(os.Stderr, "%d requests before this one\n", what.Queued.GetPosition())
		case *pb.GenerateEvent_Progress:
			progress := what.Progress
			fmt.Fprintf(os.Stderr, "step %d of %d, %.1f s left\n", progress.GetStep(), progress.GetTotalSteps(), progress.GetRemaining().AsDuration().Seconds())
		case *pb.GenerateEvent_Image: // large pictures come in several chunks, in order
			if what.Image.GetOffset() != int64(len(picture)) {
				return nil, fmt.Errorf("a part at byte %d came at %d", what.Image.GetOffset(), len(picture))
			}
			picture = append(picture, what.Image.GetData()...)
		case *pb.GenerateEvent_Completed:
			for _, warning := range what.Completed.GetWarnings() {
				fmt.Fprintln(os.Stderr, "warning:", warning.GetMessage())
			}
			return picture, nil
		}
	}
}

// retryAfter says whether a call is worth another try, and when: what the server says, else delay. `again`: it is one already.
func retryAfter(err error, delay time.Duration, again bool) (time.Duration, bool) {
	state := status.Convert(err)
	told := false
	for _, detail := range state.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			delay, told = time.Duration(info.GetRetryDelay().GetSeconds())*time.Second+time.Duration(info.GetRetryDelay().GetNanos()), true
		}
	}
	switch state.Code() {
	case codes.Unavailable:
		return delay, true
	case codes.ResourceExhausted: // without a time it stays as it is: memory ran out
		return delay, told
	case codes.AlreadyExists: // the server has not noticed yet that the last call is lost
		return delay, again
	}
	return 0, false
}

// fail says what went wrong, and each field that the server minds.
func fail(err error) {
	state := status.Convert(err)
	fmt.Fprintf(os.Stderr, "%v: %s\n", state.Code(), state.Message())
	for _, detail := range state.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.GetFieldViolations() {
				fmt.Fprintf(os.Stderr, "  %s %s\n", violation.GetField(), violation.GetDescription())
			}
		}
	}
	os.Exit(1)
}

func randomSeed() uint32 {
	var bytes [4]byte
	if _, err := rand.Read(bytes[:]); err != nil {
		fail(err)
	}
	return binary.LittleEndian.Uint32(bytes[:])
}

func randomID() string {
	var bytes [16]byte
	if _, err := rand.Read(bytes[:]); err != nil {
		fail(err)
	}
	return hex.EncodeToString(bytes[:])
}
