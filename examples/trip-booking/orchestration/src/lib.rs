//! Books a hotel and a flight, or neither.

use std::time::Duration;

use dacapo_sdk::{Context, Result, RetryPolicy, Saga, orchestration, tracing::info};
use trip_booking_api::{FlightProxy, FlightRequest, HotelProxy, HotelRequest, Itinerary, Trip};

/// Books a hotel, then a flight. Without a flight the hotel is cancelled again.
#[orchestration]
pub async fn trip_booking(ctx: Context, trip: Trip) -> Result<Itinerary> {
    let (hotel, flight) = (HotelProxy::new(&ctx), FlightProxy::new(&ctx));
    let three_attempts = RetryPolicy::attempts(3).first_interval(Duration::from_millis(500));
    let mut saga = Saga::new();

    // Time to think better of it.
    ctx.delay(Duration::from_secs(1)).await;
    let reference = ctx.new_guid().to_string();
    let booked_on = ctx.now().date();
    info!(%reference, traveller = %trip.traveller, "booking a trip");

    let room = hotel
        .reserve(HotelRequest {
            reference: reference.clone(),
            guest: trip.traveller.clone(),
            city: trip.destination.clone(),
            nights: trip.nights,
        })
        .retry(three_attempts.clone())
        .await?;
    ctx.custom_status("hotel reserved");
    saga.add("cancel hotel", {
        let (room, policy) = (room.clone(), three_attempts.clone());
        move || hotel.cancel(room).retry(policy)
    });

    let seat = flight
        .reserve(FlightRequest {
            reference: reference.clone(),
            passenger: trip.traveller,
            destination: trip.destination,
            desk: trip.flight_desk,
        })
        .retry(three_attempts.non_retryable(["Declined"]))
        .await;
    match seat {
        Ok(seat) => Ok(Itinerary { reference, booked_on, hotel: room, flight: seat }),
        Err(error) => {
            ctx.custom_status("no flight, undoing");
            let undone = saga.compensate().await;
            Err(error.context("no flight").with_details(&undone))
        }
    }
}

dacapo_sdk::export_orchestrations!(trip_booking);
